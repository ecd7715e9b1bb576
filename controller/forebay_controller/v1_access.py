"""Which functions a request of /v1 means, and whether it may."""

from starlette.requests import Request

from forebay_common.spec import FunctionSpec
from forebay_controller.gate import context_of
from forebay_controller.management import Functions
from forebay_controller.v1_errors import V1Error


def functions_of(request: Request, name: str) -> Functions:
    """The functions that a request means, if it may manage the one it names. Raises V1Error."""
    context = context_of(request.scope)
    if not context.grant.allows(name):
        raise V1Error("forbidden", context.grant.denied_text(name[:200]))
    return context.functions


def require(functions: Functions, name: str) -> FunctionSpec:
    """A function that must be there. Raises V1Error."""
    spec = functions.find(name)
    if spec is None:
        raise not_found(name)
    return spec


def not_found(name: str) -> V1Error:
    """There is no such function."""
    return V1Error("not_found", f"There is no function {name[:200]}")
