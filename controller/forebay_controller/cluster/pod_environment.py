"""The environment of a function's pod: handler processes' for managed runtimes, the container's for images (pure).

Where a value comes from a Secret or a ConfigMap, only the handlers' container ever has it: the variable stands in that
container's `env`, and for managed runtimes the handler processes take it over by name (`inherited_env`).
"""

from typing import Any

from forebay_common import pod_layout
from forebay_common.spec import FunctionSpec
from forebay_controller.cluster.access import ACCESS_KEY_ID, SECRET_ACCESS_KEY, secret_name
from forebay_controller.cluster.config import ClusterConfig
from forebay_controller.environment import handler_environment

TMP_DIR = "/tmp"  # noqa: S108 - a volume of the container's own
_SESSION_TOKEN = "AWS_SESSION_TOKEN"  # noqa: S105 - the variable's name
_KEYS = (ACCESS_KEY_ID, SECRET_ACCESS_KEY)
_OF_THE_IMAGE = ("LANG", "PATH", "PYTHONPATH", "TZ", "LAMBDA_TASK_ROOT", "LAMBDA_RUNTIME_DIR", "AWS_EXECUTION_ENV")
"""What an image for Lambda sets itself, and knows better."""


def plain_environment(config: ClusterConfig, spec: FunctionSpec, instance_id: str) -> dict[str, str]:
    """The variables whose values stand in the spec, or are the platform's."""
    environment = handler_environment(
        spec,
        instance_id=instance_id,
        region=config.region,
        # Its keys are good for its own namespace, so that is where its calls go.
        gateway_url=f"{config.gateway_url}/ns/{spec.namespace}",
        task_root=pod_layout.TASK_ROOT,
        runtime_dir=pod_layout.BOTO_FOLDER,
        tmp_dir=TMP_DIR,
    )
    own = (spec.env or {}).keys()
    # Placeholders are for places that give a function no keys of its own.
    drop = {*_KEYS, _SESSION_TOKEN}
    if spec.pod.image:
        drop.update(_OF_THE_IMAGE)
        if not spec.handler:
            drop.add("_HANDLER")
    return {name: value for name, value in environment.items() if name not in drop or name in own}


def referenced_environment(spec: FunctionSpec) -> list[dict[str, Any]]:
    """Entries of a container's `env` whose values come from elsewhere: the function's own, and its key pair.

    A function with AWS keys of its own gets none of ours: half a pair, or a wrong one, would be refused anywhere.
    """
    entries = [dict(entry) for entry in spec.pod.env_from]
    named = {entry["name"] for entry in entries} | (spec.env or {}).keys()
    if named.isdisjoint(_KEYS):
        entries += [_from_secret(name, secret_name(spec)) for name in _KEYS]
    return entries


def _from_secret(name: str, secret: str) -> dict[str, Any]:
    return {"name": name, "valueFrom": {"secretKeyRef": {"name": secret, "key": name}}}


def image_environment(config: ClusterConfig, spec: FunctionSpec, instance_id: str) -> list[dict[str, Any]]:
    """The whole `env` of a container image's container.

    A `$(NAME)` in a value is Kubernetes' own syntax for another variable; doubled, it stays what it is on Lambda.
    """
    plain = plain_environment(config, spec, instance_id) | {
        pod_layout.RUNTIME_API_VARIABLE: pod_layout.RUNTIME_API_ADDRESS
    }
    literal = [{"name": name, "value": value.replace("$(", "$$(")} for name, value in sorted(plain.items())]
    return [*literal, *referenced_environment(spec)]
