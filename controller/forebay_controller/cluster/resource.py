"""A Function resource as the platform reads it. Pure.

Objects are plain dicts, as the Kubernetes API gives them. Their schema (charts/forebay/templates/crds) has been
checked by the API server, so shapes are relied on here. What a schema cannot tell is a problem with words for
people, never an exception: an object that cannot work is shown, not lost.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, NamedTuple, TypeAlias
from uuid import NAMESPACE_OID, uuid5

from forebay_common import limits
from forebay_common.spec import AsyncSpec, FunctionSpec, PodSpec, ScaleSpec
from forebay_controller import registry_rules as rules
from forebay_controller import settings_rules
from forebay_controller.cluster import egress_text
from forebay_controller.cluster.api import FIELD_MANAGER
from forebay_controller.cluster.quantities import cpu_millis, memory_mb
from forebay_controller.destination_text import Destination

GROUP = "forebay.dev"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"
KIND = "Function"
FINALIZER = "forebay.dev/drain"
"""Keeps a deleted Function until its work is drained and its keys are removed."""
LAST_MODIFIED = "forebay.dev/last-modified"
"""Annotation: when the Lambda API or /v1 changed the function last, as FunctionConfiguration writes it.

Each change there moves it, also one without any difference, so that RevisionId changes as on Lambda.
"""
BOOTSTRAP = "bootstrap"
"""What a runtime without a handler of its own runs, when the spec says nothing."""
INVALID_CONFIGURATION = "InvalidConfiguration"
"""Lambda's code for a function that failed by what it was given."""
PROBLEM_MAX_CHARS = 1_000
_HASH_CHARS = 16


@dataclass(frozen=True, slots=True)
class InlineCode:
    """Files in the spec: (path, text), by path."""

    files: tuple[tuple[str, str], ...]

    @property
    def fingerprint(self) -> str:
        """Names this source; another one when the source says something else."""
        return f"inline:{_digest(self.files)}"


@dataclass(frozen=True, slots=True)
class ConfigMapCode:
    """A ConfigMap of the Function's namespace, whose keys are files; what it holds changes under the same name."""

    name: str

    @property
    def fingerprint(self) -> str:
        """Names this source; another one when the source says something else."""
        return f"configMap:{self.name}"


@dataclass(frozen=True, slots=True)
class ZipCode:
    """A zip to be fetched, with its SHA-256 in hexadecimal."""

    url: str
    sha256: str

    @property
    def fingerprint(self) -> str:
        """Names this source; the same zip from elsewhere is the same code."""
        return f"sha256:{self.sha256}"


@dataclass(frozen=True, slots=True)
class BlobCode:
    """A zip that was uploaded through the API; `size` in bytes, 0 when the spec does not say."""

    sha256: str
    size: int

    @property
    def fingerprint(self) -> str:
        """Names this source; another one when the source says something else."""
        return f"sha256:{self.sha256}"


CodeSource: TypeAlias = InlineCode | ConfigMapCode | ZipCode | BlobCode


@dataclass(frozen=True, slots=True)
class FunctionResource:
    """What one object says.

    `spec` is the record that the rest of the platform works with; its `code_sha256` is "" while the package of
    `code` (None: an image) is not known yet. `spec_hash` is what the leader writes into `status.observedSpec` once
    it has acted on the spec; `observed` tells whether it has. `problem` is why the function cannot work, "" for none.
    """

    spec: FunctionSpec
    code: CodeSource | None
    spec_hash: str
    observed: bool
    problem: str
    generation: int
    resource_version: str
    created: str
    finalizers: tuple[str, ...]

    @property
    def code_known(self) -> bool:
        """Whether the package, or the image, is known."""
        return self.code is None or bool(self.spec.code_sha256)

    @property
    def deleting(self) -> bool:
        """Whether it is to be drained and removed."""
        return self.spec.state == rules.DELETING

    @property
    def seniority(self) -> tuple[str, str]:
        """Of several with one function name in a namespace the one with the least has the name."""
        return (self.created, self.spec.uid)


def read(item: Mapping[str, Any]) -> FunctionResource:
    """Read a Function. The revision is the one that its settings have, or get as soon as the leader sees them."""
    metadata, wanted, status = item["metadata"], item["spec"], item.get("status", {})
    code = _code_source(wanted.get("code"))
    stored = _stored_code(code, status)
    hashed = _spec_hash(item)
    observed = status.get("observedSpec") == hashed
    spec = FunctionSpec(
        namespace=metadata["namespace"],
        name=function_name(item),
        uid=function_uid(item),
        runtime=wanted.get("runtime", ""),
        handler="" if "image" in wanted else wanted.get("handler", BOOTSTRAP),
        code_sha256=stored.sha256,
        code_size=stored.size,
        last_modified=_last_modified(metadata),
        timeout_s=wanted.get("timeoutSeconds", limits.TIMEOUT_DEFAULT_S),
        memory_mb=memory_mb(wanted["memory"]) if "memory" in wanted else limits.MEMORY_DEFAULT_MB,
        env=_plain_variables(wanted),
        scale=_scale(wanted.get("scale", {})),
        async_=_async(wanted.get("async", {})),
        allowed_origins=tuple(wanted.get("invoke", {}).get("allowedOrigins", ())),
        auth=wanted.get("invoke", {}).get("auth", "key"),
        pod=_pod(metadata["name"], wanted),
        aws=wanted.get("lambda", {}),
    )
    spec = spec.with_changes(revision=revision(spec, status, code_known=code is None or bool(stored.sha256)))
    spec = _with_states(spec, metadata, status, observed=observed)
    return FunctionResource(
        spec=spec.with_changes(revision_id=_revision_id(spec, hashed)),
        code=code,
        spec_hash=hashed,
        observed=observed,
        problem=_problem(spec),
        generation=metadata.get("generation", 0),
        resource_version=metadata.get("resourceVersion", ""),
        created=metadata.get("creationTimestamp", ""),
        finalizers=tuple(metadata.get("finalizers", ())),
    )


def function_uid(item: Mapping[str, Any]) -> str:
    """The function's uid, 32 hexadecimal digits: the object's without dashes; "" before it has one."""
    return str(item["metadata"].get("uid", "")).replace("-", "")


def function_name(item: Mapping[str, Any]) -> str:
    """The name that clients call."""
    return str(item["spec"].get("functionName", item["metadata"]["name"]))


def revision(spec: FunctionSpec, status: Mapping[str, Any], *, code_known: bool = True) -> int:
    """The revision of these settings: the status's, or the next one when instances must be replaced for them.

    While the code is not known it cannot be told whether it is other code; then it is the last one.
    """
    last: int = status.get("revision", 0)
    if not code_known:
        return max(last, 1)
    return last + (status.get("settingsHash") != settings_hash(spec))


def settings_hash(spec: FunctionSpec) -> str:
    """Names what instances are started with: it changes exactly when they must be replaced.

    Settings that are not set leave no trace, so that one which a later release adds replaces nobody's pods.
    """
    settings = settings_rules.instance_settings(spec)
    settings["cpu_millis"] = settings["cpu_millis"] or None
    return _digest({name: value for name, value in settings.items() if value not in (None, "", (), {})})


def _code_source(code: Mapping[str, Any] | None) -> CodeSource | None:
    if code is None:
        return None
    if "inline" in code:
        return InlineCode(tuple(sorted(code["inline"].items())))
    if "configMap" in code:
        return ConfigMapCode(code["configMap"]["name"])
    if "zip" in code:
        return ZipCode(code["zip"]["url"], code["zip"]["sha256"])
    return BlobCode(code["blob"]["sha256"], code["blob"].get("size", 0))


class _StoredCode(NamedTuple):
    sha256: str
    size: int


def _stored_code(code: CodeSource | None, status: Mapping[str, Any]) -> _StoredCode:
    """The package as far as spec and status tell."""
    if code is None:
        return _StoredCode("", 0)
    if status.get("codeSource") == code.fingerprint:
        return _StoredCode(status.get("codeSha256", ""), status.get("codeSize", 0))
    if isinstance(code, BlobCode):
        return _StoredCode(code.sha256, code.size)
    return _StoredCode(code.sha256 if isinstance(code, ZipCode) else "", 0)


def _plain_variables(wanted: Mapping[str, Any]) -> dict[str, str] | None:
    if "env" not in wanted:
        return None
    return {entry["name"]: entry.get("value", "") for entry in wanted["env"] if "valueFrom" not in entry}


def _scale(scale: Mapping[str, Any]) -> ScaleSpec:
    default = ScaleSpec()
    return ScaleSpec(
        min_instances=scale.get("minInstances", default.min_instances),
        max_instances=scale.get("maxInstances", default.max_instances),
        concurrency=scale.get("concurrency", default.concurrency),
        idle_s=scale.get("idleSeconds", default.idle_s),
    )


def _async(async_: Mapping[str, Any]) -> AsyncSpec:
    return AsyncSpec(
        max_retries=async_.get("maxRetryAttempts"),
        max_age_s=async_.get("maxEventAgeSeconds"),
        # As floats, since 1 and 1.0 are one number and two texts to hash.
        retry_delays_s=tuple(float(delay_s) for delay_s in async_.get("retryDelaysSeconds", ())),
        on_success=_destination(async_.get("onSuccess", {})),
        on_failure=_destination(async_.get("onFailure", {})),
    )


def _destination(wanted: Mapping[str, str]) -> str:
    """The destination that its only member names; "" for none."""
    return "".join(Destination(kind, value).text for kind, value in wanted.items())


def _pod(resource_name: str, wanted: Mapping[str, Any]) -> PodSpec:
    return PodSpec(
        resource_name=resource_name,
        image=wanted.get("image", ""),
        command=tuple(wanted.get("command", ())),
        args=tuple(wanted.get("args", ())),
        working_directory=wanted.get("workingDirectory", ""),
        image_pull_secrets=tuple(secret["name"] for secret in wanted.get("imagePullSecrets", ())),
        cpu_millis=cpu_millis(wanted["cpu"]) if "cpu" in wanted else 0,
        env_from=tuple(entry for entry in wanted.get("env", ()) if "valueFrom" in entry),
        egress=egress_text.normalised(wanted.get("egress", egress_text.INTERNET)),
    )


def _with_states(
    spec: FunctionSpec, metadata: Mapping[str, Any], status: Mapping[str, Any], *, observed: bool
) -> FunctionSpec:
    """State and LastUpdateStatus as Lambda has them: Pending until the leader has published the function.

    One that failed is pending again once it was changed, until the leader has seen the change.
    An update is in progress until the leader has seen it and no instance of an older revision takes calls.
    """
    if "deletionTimestamp" in metadata:
        return spec.with_changes(state=rules.DELETING)
    state = status.get("state", rules.PENDING)
    if state == rules.FAILED and observed:
        reason = status.get("message", "")
        return spec.with_changes(state=state, state_reason=reason, state_reason_code=INVALID_CONFIGURATION)
    if state != rules.ACTIVE:
        return spec.with_changes(
            state=rules.PENDING, state_reason=rules.BEING_CREATED, state_reason_code=rules.BEING_CREATED_CODE
        )
    failure = status.get("updateFailed", "")
    if observed and failure:
        return spec.with_changes(
            state=state,
            update_status=rules.FAILED,
            update_reason=failure,
            update_reason_code=INVALID_CONFIGURATION,
        )
    if not observed or status.get("appliedRevision", 0) < spec.revision:
        return spec.with_changes(
            state=state,
            update_status=rules.IN_PROGRESS,
            update_reason=rules.BEING_CREATED,
            update_reason_code=rules.BEING_CREATED_CODE,
        )
    return spec.with_changes(state=state, update_status=rules.SUCCESSFUL)


def _revision_id(spec: FunctionSpec, spec_hash: str) -> str:
    """Lambda's: another one for each change, also by kubectl, for its end, and when the function becomes active."""
    return str(uuid5(NAMESPACE_OID, f"{spec.uid}/{spec_hash}/{spec.revision}/{spec.state}/{spec.update_status}"))


def _spec_hash(item: Mapping[str, Any]) -> str:
    """Names a spec and the moment of its last change through the API. Tags are left out: no update is due to them."""
    carried = {name: value for name, value in item["spec"].get("lambda", {}).items() if name != "Tags"}
    wanted = {**item["spec"], "lambda": carried}
    changed = item["metadata"].get("annotations", {}).get(LAST_MODIFIED, "")
    return _digest([wanted, changed])


def _last_modified(metadata: Mapping[str, Any]) -> str:
    """When a user changed it last: through the API (its annotation), or with kubectl (the managed fields' times).

    Managed fields are those of others than the controller, which sets the finalizer, and not those of the status.
    """
    times = [metadata.get("creationTimestamp", ""), metadata.get("annotations", {}).get(LAST_MODIFIED, "")]
    times += [
        entry.get("time", "")
        for entry in metadata.get("managedFields", ())
        if entry.get("manager") != FIELD_MANAGER and entry.get("subresource") != "status"
    ]
    moments = [moment for moment in map(_moment, times) if moment is not None]
    return rules.timestamp(max(moments)) if moments else ""


def _moment(text: str) -> datetime | None:
    """A moment in UTC; None for what is none, since anybody may write an annotation."""
    try:
        return datetime.fromisoformat(text).astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def _problem(spec: FunctionSpec) -> str:
    """What the object's schema cannot tell."""
    measured = json.dumps(spec.env or {}, separators=(",", ":"), ensure_ascii=False)
    size = len(measured.encode(errors="surrogatepass"))
    if size > limits.ENVIRONMENT_MAX_BYTES:
        return (
            f"spec.env: the plain variables are {size} bytes as JSON, {limits.ENVIRONMENT_MAX_BYTES} are allowed: "
            "take large ones from a ConfigMap with valueFrom"
        )
    try:
        settings_rules.check(spec)
        egress_text.parse(spec.pod.egress)
    except (settings_rules.SettingError, egress_text.EgressError) as error:
        return str(error)[:PROBLEM_MAX_CHARS]
    return ""


def _digest(value: Any) -> str:
    canonical = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:_HASH_CHARS]
