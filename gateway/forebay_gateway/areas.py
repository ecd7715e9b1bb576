"""What a path is about, as it was sent: who serves it, in which namespace, and on which of the gateway's ports.

`/ns/NAMESPACE` in front of any path selects the namespace; without it the default one is meant. Percent-encoding stays
untouched: what is not plainly one of the known paths is a management call, so an encoding trick can only make a rule
stricter.
"""

import re
from enum import Enum

INVOKE_START = b"/2015-03-31/functions/"
INVOKE_END = b"/invocations"
OPEN_PATHS = frozenset({b"/healthz", b"/readyz", b"/metrics", b"/docs", b"/docs/oauth2-redirect", b"/openapi.json"})
HEALTH_PATHS = frozenset({b"/healthz", b"/readyz"})

_NAMESPACE_START = b"/ns/"
_NAMESPACED = re.compile(rb"/ns/(?P<namespace>[a-z0-9](?:[-a-z0-9]{0,61}[a-z0-9])?)(?P<rest>/.*)", re.DOTALL)
"""A namespace is what Kubernetes takes for one: a DNS label."""


class Area(Enum):
    """Who serves a path, and with it which rules apply."""

    INVOKE = "invoke"
    """Lambda's Invoke."""
    FUNCTION = "function"
    """`/fn/…`: handlers, over HTTP."""
    OPEN = "open"
    """Health, metrics and documentation of the gateway."""
    CONTROLLER_METRICS = "controller_metrics"
    """The controller's metrics: as open as the gateway's own."""
    CODE_LINK = "code_link"
    """Code packages by a signed link of the controller's, which is the credential, as a presigned URL is."""
    MANAGEMENT = "management"
    """Everything else: Lambda's other paths and `/v1`."""


EVERYTHING = frozenset(Area)
API = EVERYTHING - {Area.FUNCTION}
FUNCTIONS = frozenset({Area.FUNCTION})
INVOKES = frozenset({Area.INVOKE})
PROCESS = frozenset({Area.OPEN})
"""What each port serves where there are several: a page of a function's never shares an origin with management."""


def split_namespace(raw_path: bytes) -> tuple[str, bytes]:
    """The namespace that a path starts with ("" when it names none) and the path after it."""
    if not raw_path.startswith(_NAMESPACE_START):
        return "", raw_path
    match = _NAMESPACED.fullmatch(raw_path)
    if match is None:
        return "", raw_path
    return match["namespace"].decode(), match["rest"]


def is_invoke(raw_path: bytes) -> bool:
    """Whether a path is Invoke's, which is POST only."""
    if not raw_path.endswith(INVOKE_END):
        return False
    return raw_path.startswith(INVOKE_START) or split_namespace(raw_path)[1].startswith(INVOKE_START)


def area_of(method: str, raw_path: bytes) -> Area:
    """Who serves `raw_path` (as sent, without the query)."""
    if raw_path in OPEN_PATHS:
        return Area.OPEN
    if raw_path == b"/controller/metrics":
        return Area.CONTROLLER_METRICS
    if method == "POST" and is_invoke(raw_path):
        return Area.INVOKE
    _, path = split_namespace(raw_path)
    if path.startswith(b"/fn/") or path == b"/fn":
        return Area.FUNCTION
    if path.startswith(b"/v1/code/"):
        return Area.CODE_LINK
    return Area.MANAGEMENT
