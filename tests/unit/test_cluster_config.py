"""The controller's configuration on a cluster."""

import copy
from pathlib import Path
from typing import Any

import pytest

from forebay_controller.cluster.config import ClusterConfig, release_id
from support.cluster_config import SETTINGS, cluster_config


def test_a_whole_file(tmp_path: Path) -> None:
    key = tmp_path / "function-key"
    key.write_text("secret key\n")
    document = copy.deepcopy(SETTINGS)
    document |= {"prefix": "p", "retry_delays_s": [1, 2], "namespace": "team-a", "log_level": "debug"}
    document["cluster"] |= {
        "function_key_file": str(key),
        "namespaces": ["team-a", "team-b"],
        "pod": {"labels": {"a": "b"}, "affinity": None},
        "outbound": {"allow_http": True, "allowed": ["example.com"]},
    }
    config = ClusterConfig.from_json(document)
    assert config.function_key == b"secret key"
    assert config.retry_delays_s == (1.0, 2.0)
    assert config.redis.username == "forebay-controller"
    assert config.pod.labels == {"a": "b"}
    assert config.pod.affinity == {}
    assert config.outbound.allow_http
    assert (config.admin_secret, config.redis_secret) == ("forebay-admin", "forebay-redis")


@pytest.mark.parametrize(
    ("cluster", "message"),
    [
        ({"function_key": b""}, "function_key_file is empty"),
        ({"redis_acl": "none"}, "redis_acl is per-function or shared"),
        ({"namespaces": ["forebay", "default"]}, "not served in the platform's own namespace, forebay"),
        ({"namespaces": ["team-a"]}, "the default namespace default is not among those"),
        ({"lease_duration_s": 5}, "renew_deadline_s"),
        ({"pod": {"colour": "blue"}}, "unknown settings in pod: colour"),
        ({"network_policy": {"blocked_cidrs": ["10.0.0.0/33"]}}, "10.0.0.0/33"),
        ({"retry_delays_s": [-1]}, "below 0"),
        ({"instances_max": 0}, "1 at least"),
    ],
)
def test_what_cannot_work_is_refused_with_the_reason(cluster: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        cluster_config(**cluster)


def test_what_is_missing_is_named() -> None:
    with pytest.raises(ValueError, match="lacks full_name and function_key and gateway_url"):
        ClusterConfig.from_json({"redis": {"host": "x"}, "cluster": {
            "release": "r", "release_namespace": "n", "redis_for_functions": {"host": "x"}, "runtime_image": "i",
        }})  # fmt: skip


def test_functions_beside_the_platform_are_never_served() -> None:
    assert not cluster_config().serves("forebay")
    assert cluster_config().serves("anything")
    listed = cluster_config(namespaces=["default"])
    assert listed.serves("default")
    assert not listed.serves("anything")


def test_a_releases_id_is_a_labels_value_however_long_its_names_are() -> None:
    assert release_id("forebay", "forebay") == "forebay.forebay"
    long = release_id("n" * 63, "r" * 53)
    assert len(long) == 63
    assert long != release_id("n" * 63, "r" * 52)
