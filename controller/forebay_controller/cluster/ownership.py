"""Names and labels of what the controller makes in functions' namespaces (pure)."""

from uuid import UUID

from forebay_common.spec import FunctionSpec
from forebay_controller.cluster.api import Object
from forebay_controller.cluster.config import LABEL_MAX_CHARS, ClusterConfig

API_VERSION = "forebay.dev/v1alpha1"
KIND = "Function"
MANAGED_BY = "app.kubernetes.io/managed-by"
PART_OF = "app.kubernetes.io/part-of"
FUNCTION_UID = "forebay.dev/function-uid"
FUNCTION = "forebay.dev/function"
REVISION = "forebay.dev/revision"
INSTANCE = "forebay.dev/instance"
EGRESS = "forebay.dev/egress"
ROLE = "forebay.dev/role"
ROLE_FUNCTION = "function"
MANAGER = "forebay"


def release_labels(config: ClusterConfig) -> dict[str, str]:
    """On everything that this release makes; it finds its own again by them."""
    return {MANAGED_BY: MANAGER, PART_OF: config.release_id}


def release_selector(config: ClusterConfig) -> str:
    """Finds what this release made."""
    return ",".join(f"{name}={value}" for name, value in release_labels(config).items())


def function_labels(config: ClusterConfig, spec: FunctionSpec) -> dict[str, str]:
    """On what belongs to one function."""
    return {
        **release_labels(config),
        FUNCTION_UID: spec.uid,
        FUNCTION: label_value(spec.pod.resource_name),
    }


def label_value(name: str) -> str:
    """A name as a label's value: an object's name may be longer than a label holds."""
    return name[:LABEL_MAX_CHARS].rstrip("-_.")


def metadata_of(config: ClusterConfig, spec: FunctionSpec, name: str) -> Object:
    """The metadata of an object that belongs to a function."""
    return {"name": name, "namespace": spec.namespace, "labels": function_labels(config, spec)}


def owner_reference(spec: FunctionSpec) -> Object:
    """The Function as the owner. As its controller, since `kubectl drain` refuses pods that have none."""
    return {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "name": spec.pod.resource_name,
        "uid": str(UUID(hex=spec.uid)),
        "controller": True,
        "blockOwnerDeletion": True,
    }
