"""One request to Lambda's management API: its checked input, the function it names, and answers in JSON."""

import json
from base64 import b64decode
from binascii import Error as Base64Error
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from starlette.responses import Response

from forebay_common.names import LATEST, function_arn, parse_reference
from forebay_common.spec import FunctionSpec
from forebay_controller.code_package import CodePackage
from forebay_controller.gate import Context
from forebay_controller.lambda_errors import LambdaError
from forebay_controller.management import Functions, Place


class Call(NamedTuple):
    """One request to an operation: its checked input, the code package in it, and the URL it was sent to.

    `base_url` has no path.
    """

    operation: str
    context: Context
    members: Mapping[str, Any]
    package: CodePackage | None
    base_url: str

    @property
    def functions(self) -> Functions:
        """The functions of the namespace that the request was sent to."""
        return self.context.functions

    @property
    def place(self) -> Place:
        """Where they are."""
        return self.functions.place


@dataclass(frozen=True, slots=True)
class Target:
    """The function a request names; `qualifier` is "" unless it named one."""

    name: str
    arn: str
    qualifier: str

    @property
    def qualified_arn(self) -> str:
        """The ARN as the client qualified it."""
        return f"{self.arn}:{self.qualifier}" if self.qualifier else self.arn


def target_of(place: Place, members: Mapping[str, Any], member: str = "FunctionName") -> Target:
    """The function that a request names, in this region and account. Raises LambdaError."""
    found = parse_reference(members[member])
    if found is None:
        raise LambdaError.invalid(f"{members[member]} is no function name or ARN")
    if found.region not in {"", place.region}:
        text = f"Functions from '{found.region}' are not reachable in this region ('{place.region}')"
        raise LambdaError("ResourceNotFoundException", text)
    arn = function_arn(place.region, place.account, found.name)
    if found.account not in {"", place.account}:
        text = f"Account {place.account} is not authorized to use functions of account {found.account}"
        raise LambdaError("AccessDeniedException", text)
    given = members.get("Qualifier", "")
    if given and found.qualifier and given != found.qualifier:
        text = "The derived qualifier from the function name does not match the specified qualifier."
        raise LambdaError.invalid(text)
    return Target(found.name, arn, given or found.qualifier)


def named(call: Call, member: str = "FunctionName") -> Target:
    """The function that a call names, if it may manage that one. Raises LambdaError, AuthError."""
    target = target_of(call.place, call.members, member)
    if not call.context.grant.allows(target.name):
        raise call.context.grant.denied(call.operation, target.qualified_arn)
    return target


def is_there(spec: FunctionSpec | None, target: Target) -> bool:
    """Whether what a call names exists: of a function only its `$LATEST` does."""
    return spec is not None and target.qualifier in {"", LATEST}


def existing(spec: FunctionSpec | None, target: Target) -> FunctionSpec:
    """The function that a call names. Raises LambdaError when it does not exist."""
    if spec is None or not is_there(spec, target):
        raise LambdaError.not_found(target.qualified_arn)
    return spec


def read_marker(marker: str) -> str:
    """The last name of the page before, from the token that came with it. Raises LambdaError."""
    try:
        return b64decode(marker, altchars=b"-_", validate=True).decode()
    except (Base64Error, ValueError) as error:
        raise LambdaError.invalid("Invalid pagination token.") from error


def json_response(document: Mapping[str, Any], status: int = 200) -> Response:
    """An answer."""
    return Response(json.dumps(document), status, media_type="application/json")
