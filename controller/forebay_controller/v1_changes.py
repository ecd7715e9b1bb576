"""A function's record from what a PUT of /v1 gave. Pure, slow for a large package."""

from dataclasses import asdict, replace

from pydantic import ValidationError

from forebay_common.spec import AsyncSpec, FunctionSpec, ScaleSpec
from forebay_controller import destination_text, settings_rules
from forebay_controller.authenticator import Grant
from forebay_controller.cluster import egress_text
from forebay_controller.code_package import CodePackage, decode_base64, read_package
from forebay_controller.management import Functions
from forebay_controller.settings_rules import SettingError
from forebay_controller.v1_errors import V1Error
from forebay_controller.v1_models import FunctionInput

PROBLEMS_MAX = 10


def read_put(body: bytes, *, has_pods: bool) -> tuple[FunctionInput, CodePackage | None]:
    """The body of a PUT, and the package in it. Raises V1Error, PackageError, SettingError."""
    try:
        wanted = FunctionInput.model_validate_json(body)
    except ValidationError as error:
        problems = error.errors(include_url=False, include_input=False, include_context=False)
        found = [f"{'.'.join(map(str, item['loc'])) or 'body'}: {item['msg']}" for item in problems[:PROBLEMS_MAX]]
        raise V1Error("invalid", "; ".join(found)) from error
    _check_pods(wanted, has_pods=has_pods)
    return wanted, None if wanted.code is None else read_package(decode_base64(wanted.code.zip_base64))


def check_destinations(wanted: FunctionInput, grant: Grant) -> None:
    """Whether the request may have events sent to the functions that it names as destinations. Raises V1Error."""
    async_ = wanted.async_
    for text in () if async_ is None else (async_.on_success, async_.on_failure):
        kind, name = destination_text.split(text or "")
        if kind == destination_text.FUNCTION and not grant.may_send_to(name):
            raise V1Error("forbidden", grant.denied_text(name[:200]))


def missing_destinations(spec: FunctionSpec, functions: Functions) -> list[str]:
    """Functions that are destinations and not there: they may come later, as in a folder of manifests."""
    found = (destination_text.split(text) for text in (spec.async_.on_success, spec.async_.on_failure))
    names = dict.fromkeys(name for kind, name in found if kind == destination_text.FUNCTION)
    return [f"There is no function {name} yet to send records to" for name in names if functions.find(name) is None]


def new_function(namespace: str, name: str, wanted: FunctionInput, package: CodePackage | None) -> FunctionSpec:
    """The record that a new function begins with. Raises V1Error, SettingError."""
    settings_rules.check_name(name)
    has_program = wanted.runtime is not None and wanted.handler is not None and package is not None
    if not has_program and (wanted.image is None or wanted.image.uri is None):
        raise V1Error("invalid", f"There is no function {name} yet: a new one needs runtime, handler and code")
    return FunctionSpec(
        namespace=namespace,
        name=name,
        uid="",
        runtime=wanted.runtime or "",
        handler=wanted.handler or "",
        code_sha256="",
        code_size=0,
    )


def changed(old: FunctionSpec, wanted: FunctionInput, package: CodePackage | None, warning: str) -> FunctionSpec:
    """A record with the members that a PUT gave. Raises V1Error."""
    changes = wanted.settings()
    if wanted.runtime is not None:
        changes["warning"] = warning
    if wanted.scale is not None:
        given = wanted.scale.model_dump(exclude_none=True)
        changes["scale"] = ScaleSpec(**{**asdict(old.scale), **given})
    if wanted.async_ is not None:
        changes["async_"] = AsyncSpec.from_members(asdict(old.async_) | wanted.async_.settings())
    if wanted.egress is not None:
        changes["pod"] = replace(old.pod, egress=egress_text.normalised(wanted.egress))
    if package is not None:
        changes |= {"code_sha256": package.sha256, "code_size": package.size}
    return _of_one_kind(replace(old, **changes), wanted, package)


def _of_one_kind(spec: FunctionSpec, wanted: FunctionInput, package: CodePackage | None) -> FunctionSpec:
    """A function is either an image or a runtime with code; being given the one ends the other. Raises V1Error."""
    if wanted.image is not None:
        if not (wanted.image.uri or spec.pod.image):
            raise V1Error("invalid", "image.uri: the function has no image yet")
        pod = replace(spec.pod, **wanted.image.settings())
        return spec.with_changes(pod=pod, runtime="", handler="", code_sha256="", code_size=0, warning="")
    if not spec.pod.image:
        return spec
    if package is None:
        if wanted.runtime is not None or wanted.handler is not None:
            raise V1Error("invalid", "runtime and handler are for functions with code; this one is a container image")
        return spec
    if not (spec.runtime and spec.handler):
        raise V1Error("invalid", "The function is a container image: code in its place needs runtime and handler")
    return spec.with_changes(pod=replace(spec.pod, image="", command=(), args=(), working_directory=""))


def _check_pods(wanted: FunctionInput, *, has_pods: bool) -> None:
    """Raises V1Error, SettingError."""
    if wanted.image is not None and (wanted.code or wanted.runtime or wanted.handler):
        raise V1Error("invalid", "image takes the place of runtime, handler and code: give either")
    for member in ("image", "egress"):
        if getattr(wanted, member) is not None and not has_pods:
            raise V1Error("invalid", f"{member}: only a platform on Kubernetes has it, where instances are pods")
    if wanted.egress is not None:
        try:
            egress_text.parse(wanted.egress)
        except egress_text.EgressError as error:
            raise SettingError(str(error)) from error
