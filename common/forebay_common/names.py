"""Function names as Lambda's clients write them: a name, `name:qualifier`, a partial ARN or a full ARN."""

import re
from hashlib import sha256
from typing import NamedTuple

LATEST = "$LATEST"

_NAME = r"(?P<name>[a-zA-Z0-9-_]+)"
_QUALIFIER = r"(:(?P<qualifier>\$LATEST|[a-zA-Z0-9-_]+))?"
_REFERENCE = re.compile(
    r"(arn:(?P<partition>aws[a-zA-Z-]*):lambda:)?((?P<region>[a-z]{2}(-gov)?(-iso[a-z]?)?-[a-z]+-\d):)?"
    rf"((?P<account>\d{{12}}):)?(function:)?{_NAME}{_QUALIFIER}"
)
REFERENCE_MAX_CHARS = 170
ID_PREFIX_BYTES = 4


class FunctionReference(NamedTuple):
    """A parsed function name; `region` and `account` are "" unless the reference carried them."""

    name: str
    qualifier: str
    region: str
    account: str


def parse_reference(text: str) -> FunctionReference | None:
    """Read a (percent-decoded) function name; None when it is none.

    The forms are those of the `FunctionName` member in Lambda's service model.
    """
    if len(text) > REFERENCE_MAX_CHARS:
        return None
    match = _REFERENCE.fullmatch(text)
    if match is None:
        return None
    return FunctionReference(match["name"], match["qualifier"] or "", match["region"] or "", match["account"] or "")


def function_arn(region: str, account: str, name: str, qualifier: str = "") -> str:
    """A function's ARN; with the qualifier only when one is given."""
    arn = f"arn:aws:lambda:{region}:{account}:function:{name}"
    return f"{arn}:{qualifier}" if qualifier else arn


def id_prefix(uid: str) -> bytes:
    """How the invocation ids of a function's events begin: an id tells which functions it may belong to."""
    return sha256(uid.encode()).digest()[:ID_PREFIX_BYTES]
