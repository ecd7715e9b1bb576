"""The Function's definition agrees with the rest of the platform, and tells people about every field."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from forebay_common import limits
from forebay_common.spec import AsyncSpec, FunctionSpec, PodSpec, ScaleSpec
from forebay_controller import destination_text, settings_rules
from forebay_controller.cluster import resource
from forebay_controller.environment import RESERVED
from support.function_crd import definition, fields, schema, version, violations

REPOSITORY = Path(__file__).parents[2]
SPEC = schema()["properties"]["spec"]["properties"]
SCALE = SPEC["scale"]["properties"]
DEFAULT = FunctionSpec("", "", "", "", "", "", 0)


def bounds(node: dict[str, Any]) -> tuple[int, int]:
    return node["minimum"], node["maximum"]


def rules_below(node: dict[str, Any]) -> list[dict[str, Any]]:
    own = list(node.get("x-kubernetes-validations", []))
    single = [node[name] for name in ("items", "additionalProperties") if name in node]
    return own + [rule for child in [*node.get("properties", {}).values(), *single] for rule in rules_below(child)]


def test_it_is_the_kind_that_the_controller_reads() -> None:
    names = definition()["spec"]["names"]
    assert f"{definition()['spec']['group']}/{version()['name']}" == resource.API_VERSION
    assert (names["kind"], names["shortNames"]) == (resource.KIND, ["fn"])


def test_every_field_has_a_description() -> None:
    missing = [path for path, node in fields(schema()) if not node.get("description") and path != ".metadata"]
    assert missing == []


def test_every_rule_says_why() -> None:
    rules = rules_below(schema())
    assert len(rules) > 20
    assert all(len(rule["message"]) > 20 for rule in rules)


def test_defaults_are_the_platforms() -> None:
    assert SPEC["timeoutSeconds"]["default"] == DEFAULT.timeout_s
    assert SPEC["memory"]["default"] == f"{DEFAULT.memory_mb}Mi"
    assert SPEC["egress"]["default"] == PodSpec().egress
    assert SPEC["invoke"]["properties"]["auth"]["default"] == DEFAULT.auth
    each = {name: node["default"] for name, node in SCALE.items()}
    assert SPEC["scale"]["default"] == each
    assert (
        ScaleSpec(each["minInstances"], each["maxInstances"], each["concurrency"], each["idleSeconds"]) == ScaleSpec()
    )
    assert AsyncSpec() == AsyncSpec(None, None)
    assert "default" not in SPEC["async"]


def test_bounds_are_the_platforms() -> None:
    assert bounds(SPEC["timeoutSeconds"]) == (1, limits.TIMEOUT_MAX_S)
    assert bounds(SCALE["minInstances"]) == (0, settings_rules.INSTANCES_MAX)
    assert bounds(SCALE["maxInstances"]) == (1, settings_rules.INSTANCES_MAX)
    assert bounds(SCALE["concurrency"]) == (1, settings_rules.CONCURRENCY_MAX)
    assert bounds(SCALE["idleSeconds"]) == (0, settings_rules.IDLE_MAX_S)
    async_ = SPEC["async"]["properties"]
    assert bounds(async_["maxRetryAttempts"]) == (0, settings_rules.ASYNC_RETRIES_MAX)
    assert bounds(async_["maxEventAgeSeconds"]) == (settings_rules.ASYNC_AGE_MIN_S, limits.ASYNC_AGE_MAX_S)
    delays = async_["retryDelaysSeconds"]
    assert (delays["minItems"], delays["maxItems"]) == (1, settings_rules.RETRY_DELAYS_MAX)
    assert bounds(delays["items"]) == (0, limits.ASYNC_AGE_MAX_S)
    assert SPEC["functionName"]["maxLength"] == limits.NAME_MAX_CHARS
    assert SPEC["handler"]["maxLength"] == settings_rules.HANDLER_MAX_CHARS
    assert SPEC["invoke"]["properties"]["allowedOrigins"]["maxItems"] == settings_rules.ORIGINS_MAX
    (memory,) = SPEC["memory"]["x-kubernetes-validations"]
    assert re.findall(r"(\d+)Mi", memory["rule"]) == [str(limits.MEMORY_MIN_MB), str(limits.MEMORY_MAX_MB)]


@pytest.mark.parametrize("side", ["onSuccess", "onFailure"])
def test_destinations_are_the_platforms(side: str) -> None:
    members = SPEC["async"]["properties"][side]["properties"]
    assert {name: (node["maxLength"], node["pattern"]) for name, node in members.items()} == {
        "function": (limits.NAME_MAX_CHARS, f"^{destination_text.FUNCTION_PATTERN}$"),
        "stream": (limits.NAME_MAX_CHARS, f"^{destination_text.STREAM_PATTERN}$"),
        "url": (limits.DESTINATION_URL_MAX_CHARS, f"^{destination_text.URL_PATTERN}$"),
    }
    (rule,) = SPEC["async"]["properties"][side]["x-kubernetes-validations"]
    assert "exactly one of function, stream and url" in rule["message"]


@pytest.mark.parametrize(
    ("async_", "refused"),
    [
        ({}, []),
        ({"maxRetryAttempts": 0, "maxEventAgeSeconds": 21_600, "retryDelaysSeconds": [0.5, 21_600]}, []),
        ({"onSuccess": {"function": "My_Function"}, "onFailure": {"url": "https://a.example:8443/b?c=d"}}, []),
        ({"onFailure": {"stream": "team.failures"}}, []),
        ({"maxRetryAttempts": 3}, [".maxRetryAttempts"]),
        ({"maxRetryAttempts": 1.5}, [".maxRetryAttempts"]),
        ({"maxEventAgeSeconds": 59}, [".maxEventAgeSeconds"]),
        ({"retryDelaysSeconds": []}, [".retryDelaysSeconds"]),
        ({"retryDelaysSeconds": [1, 2, 3]}, [".retryDelaysSeconds"]),
        ({"retryDelaysSeconds": [-1]}, [".retryDelaysSeconds[0]"]),
        ({"retryDelaysSeconds": [1, "2"]}, [".retryDelaysSeconds[1]"]),
        ({"onSuccess": {"queue": "a"}}, [".onSuccess.queue"]),
        ({"onSuccess": "function:a"}, [".onSuccess"]),
        ({"onSuccess": {"function": "a:1"}}, [".onSuccess.function"]),
        ({"onFailure": {"stream": ""}}, [".onFailure.stream"]),
        ({"onFailure": {"stream": "a" * 65}}, [".onFailure.stream"]),
        ({"onFailure": {"url": "ftp://a"}}, [".onFailure.url"]),
        ({"onFailure": {"url": "https://user:secret@a/"}}, [".onFailure.url"]),
        ({"onFailure": {"url": "https://a/" + "b" * 2_039}}, [".onFailure.url"]),
        ({"retries": 1}, [".retries"]),
    ],
)
def test_async_settings_that_the_schema_takes_and_refuses(async_: dict[str, Any], refused: list[str]) -> None:
    assert list(violations(async_, SPEC["async"])) == refused


def test_rules_write_fields_with_a_reserved_name_as_the_api_server_wants_them() -> None:
    # Kubernetes, "Common Expression Language": such a field is `__NAME__` in a rule, or the definition is refused.
    reserved = r"\.(as|break|const|continue|else|for|function|if|import|in|let|loop|namespace|package|return)\b"
    assert [rule["rule"] for rule in rules_below(schema()) if re.search(reserved, rule["rule"])] == []


def test_reserved_variables_are_the_platforms() -> None:
    (rule,) = [rule["rule"] for rule in rules_below(SPEC["env"]) if "self.name in" in rule["rule"]]
    pattern = re.compile(SPEC["env"]["items"]["properties"]["name"]["pattern"])
    assert set(re.findall(r"'(\w+)'", rule)) == {name for name in RESERVED if pattern.fullmatch(name)}


def test_the_scale_subresource_points_to_fields_that_there_are() -> None:
    paths = {path for path, _ in fields(schema())}
    scale = version()["subresources"]["scale"]
    assert set(scale.values()) <= paths
    assert {column["jsonPath"] for column in version()["additionalPrinterColumns"]} <= paths | {
        ".metadata.creationTimestamp"
    }


def test_the_reference_names_every_field() -> None:
    text = (REPOSITORY / "docs" / "function-resource.md").read_text()
    named = set(re.findall(r"^\| `([\w.\[\]]+)`", text, re.MULTILINE))
    assert {path.removeprefix(".") for path, _ in fields(schema()["properties"]["spec"])} == named


def test_examples_are_functions_that_the_controller_reads_without_a_problem() -> None:
    paths = sorted((REPOSITORY / "examples" / "kubernetes").glob("*.yaml"))
    documents = [document for path in paths for document in yaml.safe_load_all(path.read_text())]
    functions = [document for document in documents if document["kind"] == resource.KIND]
    assert len(functions) == len(paths)
    for function in functions:
        function["metadata"] |= {"namespace": "team", "uid": "u"}
        assert resource.read(function).problem == ""
