"""The pod of one instance (pure): two containers that share a socket and the code folder, and nothing else.

It meets Pod Security's `restricted` and holds no service-account token. Nothing in it makes the kubelet wait: volumes
are empty folders, nothing is probed (an instance is ready when its heartbeat says so), and both containers start side
by side.
"""

import json
from typing import Any

from forebay_common import limits, pod_layout
from forebay_common.memory import MALLOC_ENVIRONMENT
from forebay_common.names import LATEST, function_arn
from forebay_common.spec import FunctionSpec
from forebay_controller.cluster.access import REDIS_DOCUMENT, secret_name
from forebay_controller.cluster.api import Object
from forebay_controller.cluster.config import ClusterConfig
from forebay_controller.cluster.egress import egress_class
from forebay_controller.cluster.ownership import (
    EGRESS,
    FUNCTION,
    INSTANCE,
    REVISION,
    ROLE,
    ROLE_FUNCTION,
    label_value,
    metadata_of,
    owner_reference,
)
from forebay_controller.cluster.pod_environment import (
    TMP_DIR,
    image_environment,
    plain_environment,
    referenced_environment,
)
from forebay_controller.interfaces import InstanceStartError
from forebay_controller.retry_delays import retry_delays_ms

RUNTIME = "runtime"
HANDLERS = "handlers"
SOCKET_DIR = "/run/forebay"
SOCKET_PATH = f"{SOCKET_DIR}/instance.sock"
STOP_MARGIN_S = 10
"""A pod that is told to end may run its calls to their timeout, and then has this long to leave."""
LAMBDA_MB_PER_CPU = 1_769
"""At this much memory a Lambda function has the equivalent of one vCPU (its developer guide, "Memory")."""
CPU_LIMIT_MIN_MILLIS = 1_000
"""Lambda gives an initialisation more than a small function's share. A limit at that share would stretch the start
of 128 MB's 72 thousandths of a CPU to seconds; so the share is what is reserved, and counts when a node is busy."""
TMP_SIZE = "512Mi"
"""As Lambda's."""
SOCKET_SIZE = "1Mi"
_CODE_SIZE = f"{limits.UNZIPPED_MAX_BYTES // limits.MIB + 16}Mi"
_NAME_CHARS = 40


def pod_name(spec: FunctionSpec, instance_id: str) -> str:
    """The name of an instance's pod; it tells people whose it is."""
    return f"fn-{spec.pod.resource_name[:_NAME_CHARS].rstrip('-.')}-{instance_id}"


def pod_manifest(config: ClusterConfig, spec: FunctionSpec, instance_id: str) -> Object:
    """The pod of one instance, ready to be created.

    Raises InstanceStartError for a runtime that this installation has no image of.
    """
    metadata = metadata_of(config, spec, pod_name(spec, instance_id))
    metadata["labels"] = {
        **config.pod.labels,
        **metadata["labels"],
        REVISION: str(spec.revision),
        INSTANCE: instance_id,
        EGRESS: egress_class(spec.pod.egress),
        ROLE: ROLE_FUNCTION,
    }
    if config.pod.annotations:
        metadata["annotations"] = dict(config.pod.annotations)
    metadata["ownerReferences"] = [owner_reference(spec)]
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": metadata,
        "spec": {
            "restartPolicy": "Never",
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            "terminationGracePeriodSeconds": spec.timeout_s + STOP_MARGIN_S,
            "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [_runtime(config, spec, instance_id), _handlers(config, spec, instance_id)],
            "volumes": _volumes(),
            **_placement(config, spec),
        },
    }


def _placement(config: ClusterConfig, spec: FunctionSpec) -> Object:
    """Where it may run and how it counts there; only what is set."""
    pod = config.pod
    secrets = dict.fromkeys((*config.image_pull_secrets, *spec.pod.image_pull_secrets))
    wanted: Object = {
        "nodeSelector": pod.node_selector,
        "tolerations": pod.tolerations,
        "affinity": pod.affinity,
        "topologySpreadConstraints": [_of_one_function(item, spec) for item in pod.topology_spread_constraints],
        "priorityClassName": pod.priority_class_name,
        "runtimeClassName": pod.runtime_class_name,
        "imagePullSecrets": [{"name": name} for name in secrets],
    }
    return {name: value for name, value in wanted.items() if value}


def _of_one_function(constraint: dict[str, Any], spec: FunctionSpec) -> dict[str, Any]:
    """A spread constraint without a selector means: over the pods of the same function."""
    return {"labelSelector": {"matchLabels": {FUNCTION: label_value(spec.pod.resource_name)}}, **constraint}


def _volumes() -> list[Object]:
    return [
        {"name": "socket", "emptyDir": {"medium": "Memory", "sizeLimit": SOCKET_SIZE}},
        {"name": "code", "emptyDir": {"sizeLimit": _CODE_SIZE}},
        {"name": "tmp", "emptyDir": {"sizeLimit": TMP_SIZE}},
    ]


def _security(uid: int) -> Object:
    return {
        "runAsUser": uid,
        "runAsGroup": uid,
        "runAsNonRoot": True,
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
        "seccompProfile": {"type": "RuntimeDefault"},
    }


def _runtime(config: ClusterConfig, spec: FunctionSpec, instance_id: str) -> Object:
    settings = json.dumps(settings_of(config, spec, instance_id), separators=(",", ":"))
    container: Object = {
        "name": RUNTIME,
        "image": config.runtime_image,
        "imagePullPolicy": config.image_pull_policy,
        "command": list(pod_layout.RUNTIME_COMMAND),
        "env": [
            *({"name": name, "value": value} for name, value in MALLOC_ENVIRONMENT.items()),
            {"name": pod_layout.SETTINGS_VARIABLE, "value": settings.replace("$(", "$$(")},
            {
                "name": pod_layout.REDIS_VARIABLE,
                "valueFrom": {"secretKeyRef": {"name": secret_name(spec), "key": REDIS_DOCUMENT}},
            },
        ],
        "resources": config.pod.runtime_resources,
        "securityContext": _security(pod_layout.RUNTIME_UID),
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": [
            {"name": "socket", "mountPath": SOCKET_DIR},
            {"name": "code", "mountPath": pod_layout.TASK_ROOT},
        ],
    }
    if spec.pod.image:
        # The kubelet starts the next container when this has ended: its program connects once, and ends if it cannot.
        container["lifecycle"] = {"postStart": {"exec": {"command": list(pod_layout.WAIT_FOR_API_COMMAND)}}}
    return container


def _handlers(config: ClusterConfig, spec: FunctionSpec, instance_id: str) -> Object:
    container: Object = {
        "name": HANDLERS,
        "imagePullPolicy": config.image_pull_policy,
        "resources": _handler_resources(spec),
        "securityContext": _security(pod_layout.HANDLERS_UID),
        "terminationMessagePolicy": "FallbackToLogsOnError",
    }
    tmp = {"name": "tmp", "mountPath": TMP_DIR}
    if spec.pod.image:
        return container | _image(config, spec, instance_id) | {"volumeMounts": [tmp]}
    return container | {
        "image": _managed_image(config, spec),
        "command": list(pod_layout.HANDLERS_COMMAND),
        "env": [{"name": pod_layout.SOCKET_VARIABLE, "value": SOCKET_PATH}, *referenced_environment(spec)],
        "volumeMounts": [
            {"name": "socket", "mountPath": SOCKET_DIR, "readOnly": True},
            {"name": "code", "mountPath": pod_layout.TASK_ROOT, "readOnly": True},
            tmp,
        ],
    }


def _managed_image(config: ClusterConfig, spec: FunctionSpec) -> str:
    image = config.image_of(spec)
    if not image:
        raise InstanceStartError(config.no_image(spec))
    return image


def _image(config: ClusterConfig, spec: FunctionSpec, instance_id: str) -> Object:
    """A container image with a program of its own.

    It knows nothing of draining, so the kubelet asks it to end only when the runtime had its whole time for it; once
    the runtime has left, the controller shortens that.
    """
    grace_s = spec.timeout_s + STOP_MARGIN_S
    container: Object = {
        "image": spec.pod.image,
        "env": image_environment(config, spec, instance_id),
        "lifecycle": {"preStop": {"sleep": {"seconds": grace_s - 1}}},
    }
    if spec.pod.command:
        container["command"] = list(spec.pod.command)
    if spec.pod.args:
        container["args"] = list(spec.pod.args)
    if spec.pod.working_directory:
        container["workingDir"] = spec.pod.working_directory
    return container


def _handler_resources(spec: FunctionSpec) -> Object:
    """The function's memory is reserved whole; its CPU follows the memory as on Lambda unless it is set."""
    memory = f"{spec.memory_mb}Mi"
    share = max(1, round(1_000 * spec.memory_mb / LAMBDA_MB_PER_CPU))
    request, limit = share, max(share, CPU_LIMIT_MIN_MILLIS)
    if spec.pod.cpu_millis:
        request = limit = spec.pod.cpu_millis
    return {
        "requests": {"cpu": f"{request}m", "memory": memory},
        "limits": {"cpu": f"{limit}m", "memory": memory},
    }


def settings_of(config: ClusterConfig, spec: FunctionSpec, instance_id: str) -> dict[str, Any]:
    """What the runtime is told: the members of `forebay_runtime.settings.Settings`."""
    image = bool(spec.pod.image)
    mode = "bootstrap" if spec.runtime.startswith("provided") else "python"
    return {
        "prefix": config.prefix,
        "instance_id": instance_id,
        "namespace": spec.namespace,
        "name": spec.name,
        "uid": spec.uid,
        "version": LATEST,
        "revision": spec.revision,
        "arn": function_arn(config.region, config.account, spec.name),
        "handler": spec.handler,
        "runtime": spec.runtime,
        "mode": "image" if image else mode,
        "code_dir": pod_layout.TASK_ROOT,
        "task_root": pod_layout.TASK_ROOT,
        "code_sha256": spec.code_sha256,
        "code_size": spec.code_size,
        "timeout_ms": spec.timeout_s * 1_000,
        "memory_mb": spec.memory_mb,
        "concurrency": spec.scale.concurrency,
        "env": {} if image else plain_environment(config, spec, instance_id),
        "inherited_env": [] if image else [entry["name"] for entry in referenced_environment(spec)],
        "socket_path": SOCKET_PATH,
        "boto_path": pod_layout.BOTO_FOLDER,
        "retry_delays_ms": retry_delays_ms(spec, config.retry_delays_s),
        "init_timeout_ms": spec.init_timeout_ms,
        "log_path": pod_layout.STANDARD_OUTPUT,
    }
