"""Lambda's operations on a function's EventInvokeConfig: async retries, greatest age, and destinations.

It is part of the function's own settings (`FunctionSpec.async_`): what /v1 or a Function resource says is shown here,
and what is put here is seen there. Retry delays, which Lambda does not have, stay as they are. Texts are AWS's own
answers where AWS has one.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from starlette.responses import Response

from forebay_common.names import LATEST, function_arn, parse_reference
from forebay_common.spec import AsyncSpec, FunctionSpec
from forebay_controller import destination_text, registry_rules
from forebay_controller.destination_text import DestinationError
from forebay_controller.lambda_calls import Call, Target, is_there, json_response, named, read_marker
from forebay_controller.lambda_errors import LambdaError
from forebay_controller.management import Place
from forebay_controller.settings_rules import ITS_OWN_DESTINATION

NOTHING_GIVEN = "You must specify at least one of error handling or destination setting."
NO_FUNCTION = "The function doesn't exist."

_MEMBER = "EventInvokeConfig"
"""What a function's record carries of it: when it was put or updated last. So one without any setting exists, too."""
_SETTINGS = frozenset({"MaximumRetryAttempts", "MaximumEventAgeInSeconds", "DestinationConfig"})
_SIDES = {"OnSuccess": "on_success", "OnFailure": "on_failure"}
_OURS = "arn:aws:forebay:::"
_STREAM = "stream/"
_ELSEWHERE = ("arn:aws:sqs:", "arn:aws:sns:", "arn:aws:events:", "arn:aws:s3:", "kafka://")
"""Where AWS can send records, and this platform cannot."""


async def _put(call: Call) -> Response:
    return await _write(call, merge=False)


async def _update(call: Call) -> Response:
    return await _write(call, merge=True)


async def _write(call: Call, *, merge: bool) -> Response:
    """Put replaces all of it; Update keeps what it does not name, of destinations either side."""
    target, members = named(call), call.members
    if not _SETTINGS & members.keys():
        raise LambdaError.invalid(NOTHING_GIVEN)

    def decide(old: FunctionSpec | None) -> FunctionSpec:
        if old is None or not is_there(old, target):
            raise LambdaError("ResourceNotFoundException", NO_FUNCTION)
        if merge and not _has_config(old):
            raise _no_config(target)
        given: dict[str, Any] = _destinations(call, target, members.get("DestinationConfig", {}))
        if "MaximumRetryAttempts" in members:
            given["max_retries"] = members["MaximumRetryAttempts"]
        if "MaximumEventAgeInSeconds" in members:
            given["max_age_s"] = members["MaximumEventAgeInSeconds"]
        changed = {_MEMBER: {"LastModified": registry_rules.timestamp(datetime.now(UTC))}}
        return old.with_changes(async_=replace(old.async_ if merge else _bare(old), **given), aws=old.aws | changed)

    spec = await call.functions.change(target.name, decide, visible_s=0)
    return json_response(_shown(spec, call.place))


async def _get(call: Call) -> Response:
    target = named(call)
    spec = call.functions.find(target.name)
    if spec is None or not is_there(spec, target) or not _has_config(spec):
        raise _no_config(target)
    return json_response(_shown(spec, call.place))


async def _delete(call: Call) -> Response:
    target = named(call)

    def decide(old: FunctionSpec | None) -> FunctionSpec:
        if old is None or not is_there(old, target) or not _has_config(old):
            raise _no_config(target)
        carried = {name: value for name, value in old.aws.items() if name != _MEMBER}
        return old.with_changes(async_=_bare(old), aws=carried)

    await call.functions.change(target.name, decide, visible_s=0)
    return Response(status_code=204)


async def _list(call: Call) -> Response:
    """One page: a function has `$LATEST`'s configuration at most."""
    target = named(call)
    spec = call.functions.find(target.name)
    if spec is None or not is_there(spec, target):
        raise LambdaError("ResourceNotFoundException", NO_FUNCTION)
    after = read_marker(call.members.get("Marker", ""))
    page = [_shown(spec, call.place)] if _has_config(spec) and after < LATEST else []
    return json_response({"NextMarker": None, "FunctionEventInvokeConfigs": page})


OPERATIONS: dict[str, Callable[[Call], Awaitable[Response]]] = {
    "DeleteFunctionEventInvokeConfig": _delete,
    "GetFunctionEventInvokeConfig": _get,
    "ListFunctionEventInvokeConfigs": _list,
    "PutFunctionEventInvokeConfig": _put,
    "UpdateFunctionEventInvokeConfig": _update,
}


def _has_config(spec: FunctionSpec) -> bool:
    return _MEMBER in spec.aws or spec.async_ != _bare(spec)


def _bare(spec: FunctionSpec) -> AsyncSpec:
    """A function's settings without those of Lambda's."""
    return AsyncSpec(retry_delays_s=spec.async_.retry_delays_s)


def _shown(spec: FunctionSpec, place: Place) -> dict[str, Any]:
    """FunctionEventInvokeConfig: both destinations always, retries and age only when they are set."""
    async_ = spec.async_
    document: dict[str, Any] = {
        "LastModified": _last_modified_s(spec),
        "FunctionArn": function_arn(place.region, place.account, spec.name, LATEST),
        "DestinationConfig": {
            side: {"Destination": _arn(getattr(async_, member), place)} if getattr(async_, member) else {}
            for side, member in _SIDES.items()
        },
    }
    if async_.max_retries is not None:
        document["MaximumRetryAttempts"] = async_.max_retries
    if async_.max_age_s is not None:
        document["MaximumEventAgeInSeconds"] = async_.max_age_s
    return document


def _last_modified_s(spec: FunctionSpec) -> float:
    """Unix time of the last Put or Update; of the function's last change when it was never put here."""
    carried = spec.aws.get(_MEMBER)
    put = carried.get("LastModified") if isinstance(carried, Mapping) else None
    for text in (put, spec.last_modified):
        try:
            return datetime.fromisoformat(str(text)).timestamp()
        except (ValueError, OverflowError):
            continue
    return 0.0


def _destinations(call: Call, target: Target, config: Mapping[str, Mapping[str, str]]) -> dict[str, str]:
    """The sides that a DestinationConfig names, as members of `AsyncSpec`. Raises LambdaError."""
    given = {side: config[side].get("Destination", "") for side in _SIDES if side in config}
    return {_SIDES[side]: _destination(call, target, config, arn) if arn else "" for side, arn in given.items()}


def _destination(call: Call, target: Target, config: Mapping[str, Mapping[str, str]], arn: str) -> str:
    """A destination's ARN as settings hold it. Raises LambdaError."""
    if arn.startswith("arn:aws:lambda:"):
        return f"{destination_text.FUNCTION}:{_function(call, target, arn)}"
    if arn.startswith(_OURS):
        resource = arn.removeprefix(_OURS)
        stream = resource.startswith(_STREAM)
        text = f"{destination_text.STREAM}:{resource.removeprefix(_STREAM)}" if stream else resource
        try:
            found = destination_text.parse(text)
        except DestinationError as error:
            raise LambdaError.invalid(f"The destination ARN {arn} is invalid: {error}") from error
        if found.kind != destination_text.FUNCTION:
            return text
    if arn.startswith(_ELSEWHERE):
        raise LambdaError.invalid(
            f"The destination {arn} is not supported: records go to a function, a stream ({_OURS}{_STREAM}NAME) or a "
            f"URL ({_OURS}https://HOST/PATH)"
        )
    sides = (
        f"{side[0].lower()}{side[1:]}={side}(destination={config[side].get('Destination', 'null')})"
        if side in config
        else f"{side[0].lower()}{side[1:]}=null"
        for side in _SIDES
    )
    raise LambdaError.invalid(f"The provided destination config DestinationConfig({', '.join(sides)}) is invalid.")


def _function(call: Call, target: Target, arn: str) -> str:
    """The name of another function of the namespace, which the request may have events sent to. Raises LambdaError."""
    found = parse_reference(arn)
    here = found is not None and (found.region, found.account) == (call.place.region, call.place.account)
    if found is not None and here and found.qualifier in {"", LATEST}:
        if found.name == target.name:
            raise LambdaError.invalid(ITS_OWN_DESTINATION)
        # One answer for both, so that it tells nothing of functions that the request may not see.
        if call.context.grant.may_send_to(found.name) and call.functions.find(found.name) is not None:
            return found.name
    raise LambdaError.invalid(f"The destination ARN {arn} is invalid.")


def _arn(text: str, place: Place) -> str:
    """A destination as Lambda's API writes it."""
    kind, value = destination_text.split(text)
    if kind == destination_text.FUNCTION:
        return function_arn(place.region, place.account, value)
    return f"{_OURS}{_STREAM}{value}" if kind == destination_text.STREAM else f"{_OURS}{value}"


def _no_config(target: Target) -> LambdaError:
    text = f"The function {target.arn}:{target.qualifier or LATEST} doesn't have an EventInvokeConfig"
    return LambdaError("ResourceNotFoundException", text)
