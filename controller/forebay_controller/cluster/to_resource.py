"""A function as Lambda's API or /v1 wants it, as a Function resource. Pure.

What those APIs do not know of a resource (how its user wrote it, labels, variables from Secrets, where its code
comes from as long as it is the same code) stays as it is: a change touches what differs, and nothing else.
"""

import copy
import hashlib
import re
from collections.abc import Callable, Mapping
from typing import Any

from forebay_common.spec import FunctionSpec
from forebay_controller import destination_text
from forebay_controller.cluster.api import Object
from forebay_controller.cluster.quantities import cpu_quantity, memory_quantity
from forebay_controller.cluster.resource import API_VERSION, KIND, LAST_MODIFIED, read

NAME_MAX_CHARS = 63
"""The name is a label's value, too."""

_HASH_CHARS = 10
_PLAIN_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_LOOKS_HASHED = re.compile(rf".*-[0-9a-f]{{{_HASH_CHARS}}}")


def metadata_name(function_name: str) -> str:
    """The object's name for a function's: the same where Kubernetes allows it.

    Else in lower case, `-` for what is not allowed, and a hash of the original, so that no two functions get the
    same. A name that looks as if it ended in such a hash gets one, too, or it could be another's.
    """
    if _PLAIN_NAME.fullmatch(function_name) and not _LOOKS_HASHED.fullmatch(function_name):
        return function_name
    digest = hashlib.sha256(function_name.encode()).hexdigest()[:_HASH_CHARS]
    stem = re.sub(r"[^a-z0-9]+", "-", function_name.lower())[: NAME_MAX_CHARS - _HASH_CHARS - 1].strip("-")
    return f"{stem or 'function'}-{digest}"


def new_object(wanted: FunctionSpec) -> Object:
    """A Function to be created; its code is a blob, stored under its SHA-256 before the object is."""
    name = metadata_name(wanted.name)
    spec: Object = {} if name == wanted.name else {"functionName": wanted.name}
    empty = FunctionSpec(wanted.namespace, wanted.name, "", "", "", "", 0)
    _write_changes(spec, empty, wanted)
    metadata: Object = {"name": name, "namespace": wanted.namespace}
    if wanted.last_modified:
        metadata["annotations"] = {LAST_MODIFIED: wanted.last_modified}
    return {"apiVersion": API_VERSION, "kind": KIND, "metadata": metadata, "spec": spec}


def changed_object(current: Object, wanted: FunctionSpec) -> Object:
    """A Function after a change through the API.

    `wanted.last_modified` is the moment of the change; left as it was, it is none that clients are told of (tags).
    To be sent with the resource version that it carries, so that a change by somebody else in between is noticed.
    """
    changed = copy.deepcopy(current)
    old = read(current).spec
    _write_changes(changed["spec"], old, wanted)
    if wanted.last_modified != old.last_modified:
        changed["metadata"].setdefault("annotations", {})[LAST_MODIFIED] = wanted.last_modified
    return changed


def change_patch(current: Object, wanted: FunctionSpec) -> Object:
    """The same as a JSON merge patch (RFC 7386). With it, only what differs becomes the API's own."""
    patch = _merge_patch(current, changed_object(current, wanted))
    patch.setdefault("metadata", {})["resourceVersion"] = current["metadata"]["resourceVersion"]
    return patch


def _write_changes(target: Object, old: FunctionSpec, new: FunctionSpec) -> None:
    """Write into an object's spec what differs between two records."""
    for member, value_of in _MEMBERS.items():
        value = value_of(new)
        if value != value_of(old):
            _set(target, member, value)
    for member, members in _GROUPS.items():
        for name, value_of in members.items():
            if value_of(new) != value_of(old):
                _set(target.setdefault(member, {}), name, value_of(new))
    if (new.env, new.pod.env_from) != (old.env, old.pod.env_from):
        _set(target, "env", _variables(target.get("env", []), new))
    if new.code_sha256 and new.code_sha256 != old.code_sha256:
        target["code"] = {"blob": {"sha256": new.code_sha256, "size": new.code_size}}
    elif new.pod.image:
        target.pop("code", None)


def _variables(current: list[Object], wanted: FunctionSpec) -> list[Object] | None:
    """`env` in the order that it has, new ones last; None when it is to be absent."""
    if wanted.env is None and not wanted.pod.env_from:
        return None
    entries = {name: {"name": name, "value": value} for name, value in (wanted.env or {}).items()}
    # A plain variable wins over one from elsewhere: it was given last.
    entries = {entry["name"]: entry for entry in wanted.pod.env_from} | entries
    kept = [entry["name"] for entry in current if entry["name"] in entries]
    return [entries[name] for name in dict.fromkeys([*kept, *entries])]


def _destination(text: str) -> Object | None:
    if not text:
        return None
    kind, value = destination_text.split(text)
    return {kind: value}


def _set(target: Object, member: str, value: Any) -> None:
    if value is None:
        target.pop(member, None)
    else:
        target[member] = value


def _merge_patch(old: Mapping[str, Any], new: Mapping[str, Any]) -> Object:
    """What leads from one JSON object to the other."""
    patch: Object = {name: None for name in old if name not in new}
    for name, value in new.items():
        before = old.get(name)
        if isinstance(value, dict) and isinstance(before, dict):
            inner = _merge_patch(before, value)
            if inner:
                patch[name] = inner
        elif name not in old or before != value:
            patch[name] = value
    return patch


_MEMBERS: dict[str, Callable[[FunctionSpec], Any]] = {
    "runtime": lambda spec: spec.runtime or None,
    "handler": lambda spec: spec.handler or None,
    "image": lambda spec: spec.pod.image or None,
    "command": lambda spec: list(spec.pod.command) or None,
    "args": lambda spec: list(spec.pod.args) or None,
    "workingDirectory": lambda spec: spec.pod.working_directory or None,
    "imagePullSecrets": lambda spec: [{"name": name} for name in spec.pod.image_pull_secrets] or None,
    "timeoutSeconds": lambda spec: spec.timeout_s,
    "memory": lambda spec: memory_quantity(spec.memory_mb),
    "cpu": lambda spec: cpu_quantity(spec.pod.cpu_millis) if spec.pod.cpu_millis else None,
    "egress": lambda spec: spec.pod.egress,
    "lambda": lambda spec: spec.aws or None,
}
"""Members of a Function's spec by what they are in a record; None: absent."""

_GROUPS: dict[str, dict[str, Callable[[FunctionSpec], Any]]] = {
    "scale": {
        "minInstances": lambda spec: spec.scale.min_instances,
        "maxInstances": lambda spec: spec.scale.max_instances,
        "concurrency": lambda spec: spec.scale.concurrency,
        "idleSeconds": lambda spec: spec.scale.idle_s,
    },
    "invoke": {
        "auth": lambda spec: spec.auth,
        "allowedOrigins": lambda spec: list(spec.allowed_origins) or None,
    },
    "async": {
        "maxRetryAttempts": lambda spec: spec.async_.max_retries,
        "maxEventAgeSeconds": lambda spec: spec.async_.max_age_s,
        "retryDelaysSeconds": lambda spec: list(spec.async_.retry_delays_s) or None,
        "onSuccess": lambda spec: _destination(spec.async_.on_success),
        "onFailure": lambda spec: _destination(spec.async_.on_failure),
    },
}
