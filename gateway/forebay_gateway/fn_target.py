"""Whom a path below `/fn` is for."""

import re
from typing import NamedTuple
from urllib.parse import unquote

from forebay_common.names import parse_reference
from forebay_gateway.areas import split_namespace

_PATH = re.compile(rb"/fn/(?P<name>[^/]+)(?P<rest>/.*)?", re.DOTALL)


class Target(NamedTuple):
    """What a path names: `prefix` is `/fn/NAME` as sent, `rest` the path below it ("" or from its slash on).

    `namespace` "" is the default one; `prefix` starts with `/ns/NAMESPACE` when the path does.
    """

    namespace: str
    name: str
    qualifier: str
    prefix: str
    rest: str


def target_of(raw_path: bytes) -> Target | None:
    """Read a path as it was sent; None when it names no function."""
    namespace, path = split_namespace(raw_path)
    match = _PATH.fullmatch(path)
    if match is None:
        return None
    segment = match["name"].decode("latin-1")
    reference = parse_reference(unquote(segment))
    if reference is None or reference.region or reference.account:
        return None
    prefix = f"/ns/{namespace}/fn/{segment}" if namespace else f"/fn/{segment}"
    return Target(namespace, reference.name, reference.qualifier, prefix, (match["rest"] or b"").decode("latin-1"))
