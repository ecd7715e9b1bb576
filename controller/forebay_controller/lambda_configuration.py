"""A function as Lambda's API shows it, and a function's record from what that API was sent. Pure.

Members the platform does not use are carried when they change nothing, and refused by name when they would.
"""

import hashlib
import platform
from base64 import b64encode
from collections.abc import Callable, Mapping
from typing import Any

from forebay_common.names import LATEST, function_arn
from forebay_common.spec import FunctionSpec
from forebay_controller import lambda_images, registry_rules
from forebay_controller.code_package import CodePackage, decode_base64, read_package
from forebay_controller.lambda_errors import LambdaError

ARCHITECTURE = "arm64" if platform.machine().lower() in {"arm64", "aarch64"} else "x86_64"
NO_CODE = "Please provide a source for function code."
NO_RUNTIME = "Runtime and Handler are mandatory parameters for functions created with deployment packages."

_CARRIED = ("Role", "Description", "Tags")
"""Stored as sent, shown again."""
_USED = frozenset({
    *_CARRIED, "FunctionName", "Runtime", "Handler", "Code", "ZipFile", "Timeout", "MemorySize", "Environment",
    "DryRun", "RevisionId",
})  # fmt: skip
_ONLY: dict[str, tuple[Any, Callable[[Any], bool]]] = {
    "Architectures": ([ARCHITECTURE], lambda value: value == [ARCHITECTURE]),
    "EphemeralStorage": ({"Size": 512}, lambda value: value == {"Size": 512}),
    "PackageType": (lambda_images.ZIP, lambda value: value == lambda_images.ZIP),
    "SnapStart": ({"ApplyOn": "None"}, lambda value: value.get("ApplyOn", "None") == "None"),
    "TracingConfig": ({"Mode": "PassThrough"}, lambda value: value.get("Mode", "PassThrough") == "PassThrough"),
}
"""Members with one value that the platform has: that value for the error's text, and the test of one sent."""
_USED_BY_IMAGES = frozenset({"PackageType", "ImageUri", "ImageConfig"})


def check_supported(members: Mapping[str, Any], function_name: str, *, images: bool) -> None:
    """Refuse what would change behaviour that the platform does not have. Raises LambdaError that names it.

    `members` is an input of CreateFunction, UpdateFunctionCode or UpdateFunctionConfiguration; `function_name` is
    bare. `images`: whether container images can be run.
    """
    for name, value in members.items():
        if name == "Code":
            check_supported(value, function_name, images=images)
        elif images and name in _USED_BY_IMAGES:
            continue
        elif name == "LoggingConfig":
            _check_logging(value, function_name)
        elif name in _ONLY:
            allowed, holds = _ONLY[name]
            if not holds(value):
                raise LambdaError.invalid(f"The value {value} of {name} is not supported yet; {allowed} is")
        elif name not in _USED and not _is_empty(value):
            raise LambdaError.invalid(f"The parameter {name} is not supported yet")


def read_code(members: Mapping[str, Any]) -> CodePackage | None:
    """The package in `Code.ZipFile` or `ZipFile`; None when there is none. Slow for a large one.

    Raises PackageError.
    """
    zip_file = members.get("Code", members).get("ZipFile")
    return None if zip_file is None else read_package(decode_base64(zip_file))


def wanted_on_create(
    members: Mapping[str, Any], package: CodePackage | None, *, namespace: str, name: str, warning: str
) -> FunctionSpec:
    """The record that CreateFunction asks for. Raises LambdaError."""
    if lambda_images.is_image(members):
        return wanted_on_update(lambda_images.wanted_image(members, namespace=namespace, name=name), members)
    if lambda_images.image_of(members):
        raise LambdaError.invalid("Please don't provide ImageUri when creating a function with packageType Zip.")
    if package is None:
        raise LambdaError.invalid(NO_CODE)
    if "Runtime" not in members or "Handler" not in members:
        raise LambdaError.invalid(NO_RUNTIME)
    first = FunctionSpec(
        namespace=namespace,
        name=name,
        uid="",
        runtime=members["Runtime"],
        handler=members["Handler"],
        code_sha256=package.sha256,
        code_size=package.size,
        warning=warning,
    )
    return wanted_on_update(first, members)


def wanted_on_update(old: FunctionSpec, members: Mapping[str, Any]) -> FunctionSpec:
    """The record that UpdateFunctionConfiguration asks for: members not sent stay. Raises LambdaError."""
    old = lambda_images.with_configuration(old, members)
    changes: dict[str, Any] = {}
    for member, attribute in (
        ("Runtime", "runtime"),
        ("Handler", "handler"),
        ("Timeout", "timeout_s"),
        ("MemorySize", "memory_mb"),
    ):
        if member in members:
            changes[attribute] = members[member]
    if "Environment" in members:
        changes["env"] = members["Environment"].get("Variables", {})
    carried = {name: members[name] for name in _CARRIED if name in members}
    return old.with_changes(**changes, aws={**old.aws, **carried})


def configuration(
    spec: FunctionSpec, *, region: str, account: str, qualified: bool = False, listed: bool = False
) -> dict[str, Any]:
    """FunctionConfiguration. `qualified`: the client named `$LATEST`; `listed`: as an item of ListFunctions."""
    document: dict[str, Any] = {
        "FunctionName": spec.name,
        "FunctionArn": function_arn(region, account, spec.name, LATEST if qualified else ""),
        "Role": spec.aws.get("Role", f"arn:aws:iam::{account}:role/forebay"),
        "CodeSize": spec.code_size,
        "Description": spec.aws.get("Description", ""),
        "Timeout": spec.timeout_s,
        "MemorySize": spec.memory_mb,
        "LastModified": spec.last_modified,
        "Version": LATEST,
        "TracingConfig": {"Mode": "PassThrough"},
        "RevisionId": spec.revision_id,
        "Architectures": [ARCHITECTURE],
        "EphemeralStorage": {"Size": 512},
        "SnapStart": {"ApplyOn": "None", "OptimizationStatus": "Off"},
        "LoggingConfig": {"LogFormat": "Text", "LogGroup": _log_group(spec.name)},
        **(lambda_images.shown(spec) if spec.pod.image else _shown_package(spec)),
    }
    if spec.env is not None:
        document["Environment"] = {"Variables": spec.env}
    if not listed:
        document |= _states(spec)
        if not spec.pod.image:
            document["RuntimeVersionConfig"] = {"RuntimeVersionArn": _runtime_version_arn(region, spec.runtime)}
    return document


def check_changeable(spec: FunctionSpec, revision_id: str | None, arn: str) -> None:
    """Whether Lambda's API may change a function now. Raises LambdaError."""
    if revision_id is not None and revision_id != spec.revision_id:
        raise LambdaError(
            "PreconditionFailedException",
            "The Revision Id provided does not match the latest Revision Id. "
            "Call the GetFunction/GetAlias API to retrieve the latest Revision Id",
        )
    refused = "The operation cannot be performed at this time."
    if spec.state == registry_rules.PENDING:
        text = f"{refused} The function is currently in the following state: {spec.state}"
        raise LambdaError("ResourceConflictException", text)
    if spec.update_status == registry_rules.IN_PROGRESS:
        raise LambdaError("ResourceConflictException", f"{refused} An update is in progress for resource: {arn}")


def _shown_package(spec: FunctionSpec) -> dict[str, str]:
    return {
        "PackageType": lambda_images.ZIP,
        "Runtime": spec.runtime,
        "Handler": spec.handler,
        "CodeSha256": b64encode(bytes.fromhex(spec.code_sha256)).decode(),
    }


def _states(spec: FunctionSpec) -> dict[str, str]:
    values = {
        "State": spec.state,
        "StateReason": spec.state_reason,
        "StateReasonCode": spec.state_reason_code,
        "LastUpdateStatus": spec.update_status,
        "LastUpdateStatusReason": spec.update_reason,
        "LastUpdateStatusReasonCode": spec.update_reason_code,
    }
    return {name: value for name, value in values.items() if value}


def _check_logging(value: Mapping[str, str], function_name: str) -> None:
    allowed = {"LogFormat": "Text", "LogGroup": _log_group(function_name)}
    for name, given in value.items():
        if allowed.get(name) != given:
            raise LambdaError.invalid(f"The value {given} of LoggingConfig.{name} is not supported yet; {allowed} is")


def _log_group(function_name: str) -> str:
    return f"/aws/lambda/{function_name}"


def _runtime_version_arn(region: str, runtime: str) -> str:
    """An ARN of AWS's form; the same for every function with this runtime name."""
    return f"arn:aws:lambda:{region}::runtime:{hashlib.sha256(runtime.encode()).hexdigest()}"


def _is_empty(value: Any) -> bool:
    """Whether a member says nothing: clients send empty structures and lists for what is not set."""
    if isinstance(value, Mapping):
        return all(_is_empty(item) for item in value.values())
    return not value
