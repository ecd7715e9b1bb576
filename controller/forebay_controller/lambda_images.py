"""Functions that are container images, as Lambda's API takes and shows them. Pure.

`ImageConfig` overrides what an image starts: its EntryPoint is a container's `command`, its Command the `args`.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from forebay_common.spec import FunctionSpec, PodSpec
from forebay_controller.lambda_errors import LambdaError

IMAGE = "Image"
ZIP = "Zip"
_DIGEST = "@sha256:"


def is_image(members: Mapping[str, Any]) -> bool:
    """Whether an input of CreateFunction asks for a container image."""
    return bool(members.get("PackageType", ZIP) == IMAGE)


def image_of(members: Mapping[str, Any]) -> str:
    """The image that an input of CreateFunction or UpdateFunctionCode names; "" for none."""
    return str(members.get("Code", members).get("ImageUri", ""))


def wanted_image(members: Mapping[str, Any], *, namespace: str, name: str) -> FunctionSpec:
    """The record that CreateFunction begins with for an image. Raises LambdaError."""
    image = image_of(members)
    if not image or "ZipFile" in members["Code"]:
        raise LambdaError.invalid("Please provide ImageUri, and nothing else, as the code of packageType Image.")
    _check_not_of_image(members)
    return FunctionSpec(
        namespace=namespace,
        name=name,
        uid="",
        runtime="",
        handler="",
        code_sha256="",
        code_size=0,
        pod=PodSpec(image=image),
    )


def with_code(spec: FunctionSpec, members: Mapping[str, Any]) -> FunctionSpec:
    """A function with the image that UpdateFunctionCode gives, if it gives one.

    Raises LambdaError when the function is none of the kind that the input is for.
    """
    image = image_of(members)
    if image and "ZipFile" in members:
        raise LambdaError.invalid("Please provide either ZipFile or ImageUri.")
    if bool(image) != bool(spec.pod.image):
        wrong, kind = ("ImageUri", ZIP) if image else ("ZipFile", IMAGE)
        raise LambdaError.invalid(f"Please don't provide {wrong} when updating a function with packageType {kind}.")
    return spec.with_changes(pod=replace(spec.pod, image=image)) if image else spec


def with_configuration(spec: FunctionSpec, members: Mapping[str, Any]) -> FunctionSpec:
    """A function with the ImageConfig of an input, all of it, if there is one. Raises LambdaError."""
    if spec.pod.image:
        _check_not_of_image(members)
    given = members.get("ImageConfig")
    if given is None:
        return spec
    if not spec.pod.image:
        if any(given.values()):
            raise LambdaError.invalid("ImageConfig is a parameter of functions created with container images only.")
        return spec
    pod = replace(
        spec.pod,
        command=tuple(given.get("EntryPoint", ())),
        args=tuple(given.get("Command", ())),
        working_directory=given.get("WorkingDirectory", ""),
    )
    return spec.with_changes(pod=pod)


def shown(spec: FunctionSpec) -> dict[str, Any]:
    """What FunctionConfiguration has for an image, in place of runtime, handler and the package's hash."""
    pod = spec.pod
    document: dict[str, Any] = {"PackageType": IMAGE}
    if _DIGEST in pod.image:
        document["CodeSha256"] = pod.image.rpartition(_DIGEST)[2]
    overrides = {
        "EntryPoint": list(pod.command),
        "Command": list(pod.args),
        "WorkingDirectory": pod.working_directory,
    }
    if any(overrides.values()):
        config = {name: value for name, value in overrides.items() if value}
        document["ImageConfigResponse"] = {"ImageConfig": config}
    return document


def shown_code(spec: FunctionSpec) -> dict[str, str]:
    """GetFunction's `Code` for an image."""
    return {"RepositoryType": "ECR", "ImageUri": spec.pod.image, "ResolvedImageUri": spec.pod.image}


def _check_not_of_image(members: Mapping[str, Any]) -> None:
    wrong = [name for name in ("Runtime", "Handler") if name in members]
    if wrong:
        text = f"{' and '.join(wrong)} cannot be set for functions created with container images"
        raise LambdaError.invalid(f"{text}: ImageConfig says what an image runs.")
