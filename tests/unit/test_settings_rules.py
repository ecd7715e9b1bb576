"""Which settings are refused, in which words."""

import json
from dataclasses import replace
from typing import Any

import pytest

from forebay_common.spec import AsyncSpec, FunctionSpec, ScaleSpec
from forebay_controller.settings_rules import SettingError, check, is_runtime, needs_new_instances

SPEC = FunctionSpec("default", "hello", "u", "python3.11", "app.handler", "00", 1)


def refusal(**changes: Any) -> str:
    with pytest.raises(SettingError) as caught:
        check(SPEC.with_changes(**changes))
    return str(caught.value)


def test_the_defaults_are_allowed() -> None:
    check(SPEC)


@pytest.mark.parametrize("name", ["python3.8", "python3.11", "python3.15", "provided", "provided.al2023"])
def test_runtimes_there_are(name: str) -> None:
    assert is_runtime(name)


@pytest.mark.parametrize("name", ["", "python", "python2.7", "python3.x", "nodejs22.x", "provided.", "python3.11 "])
def test_runtimes_there_are_not(name: str) -> None:
    assert "'runtime' failed to satisfy constraint: Member must satisfy enum value set: [python3.15" in refusal(
        runtime=name
    )


@pytest.mark.parametrize("name", ["", "a b", "ä", "a/b", "a.b", "a:b"])
def test_names_of_other_characters_are_refused(name: str) -> None:
    assert "is no function name" in refusal(name=name)


def test_a_name_has_64_characters_at_most() -> None:
    check(SPEC.with_changes(name="a" * 64))
    assert "length less than or equal to 64" in refusal(name="a" * 65)


@pytest.mark.parametrize("handler", ["", "a b", "a\n", "a" * 129])
def test_handlers_have_no_white_space_and_a_bound(handler: str) -> None:
    assert "handler must be" in refusal(handler=handler)


def test_a_handler_that_cannot_work_is_the_callers_to_learn_as_on_lambda() -> None:
    check(SPEC.with_changes(handler="nodot"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"timeout_s": 0}, "timeout_s is 0, 1 to 900 is allowed"),
        ({"timeout_s": 901}, "timeout_s is 901, 1 to 900 is allowed"),
        ({"memory_mb": 127}, "memory_mb is 127, 128 to 10240 is allowed"),
        ({"scale": ScaleSpec(max_instances=0)}, "scale.max_instances is 0, 1 to 1000 is allowed"),
        ({"scale": ScaleSpec(min_instances=-1)}, "scale.min_instances is -1, 0 to 1000 is allowed"),
        (
            {"scale": ScaleSpec(min_instances=3, max_instances=2)},
            "scale.min_instances (3) is above scale.max_instances (2)",
        ),
        ({"scale": ScaleSpec(concurrency=0)}, "scale.concurrency is 0, 1 to 100 is allowed"),
        ({"scale": ScaleSpec(idle_s=float("nan"))}, "scale.idle_s is nan, 0 to 86400 is allowed"),
        ({"async_": AsyncSpec(max_retries=3)}, "async.max_retries is 3, 0 to 2 is allowed"),
        ({"async_": AsyncSpec(max_age_s=59)}, "async.max_age_s is 59, 60 to 21600 is allowed"),
        ({"async_": AsyncSpec(retry_delays_s=(1, -1))}, "async.retry_delays_s is -1, 0 to 21600 is allowed"),
        ({"async_": AsyncSpec(retry_delays_s=(21_601,))}, "async.retry_delays_s is 21601, 0 to 21600 is allowed"),
        (
            {"async_": AsyncSpec(retry_delays_s=(float("nan"),))},
            "async.retry_delays_s is nan, 0 to 21600 is allowed",
        ),
    ],
)
def test_numbers_out_of_range_are_refused_with_the_range(changes: dict[str, Any], message: str) -> None:
    assert refusal(**changes) == message


def test_there_are_no_more_retry_delays_than_retries() -> None:
    check(SPEC.with_changes(async_=AsyncSpec(retry_delays_s=(0, 21_600))))
    words = "async.retry_delays_s holds 3 delays, 2 are allowed: one before each retry"
    assert refusal(async_=AsyncSpec(retry_delays_s=(1, 2, 3))) == words


@pytest.mark.parametrize("member", ["on_success", "on_failure"])
def test_destinations_are_checked(member: str) -> None:
    def to(text: str) -> AsyncSpec:
        return AsyncSpec.from_members({member: text})

    for text in ("function:other", "stream:failures", "https://a.example/b", ""):
        check(SPEC.with_changes(async_=to(text)))
    assert refusal(async_=to("sqs")).startswith(f"async.{member}: 'sqs' is no destination")
    itself = refusal(async_=to("function:hello"))
    assert itself == f"async.{member}: You can't specify the function as a destination for itself."


def test_the_environment_is_measured_as_aws_measures_it() -> None:
    room = 4096 - len('{"AB":""}')
    check(SPEC.with_changes(env={"AB": "x" * room}))
    over = {"AB": "x" * (room + 1)}
    assert refusal(env=over) == (
        "Lambda was unable to configure your environment variables because the environment variables you have "
        f"provided exceeded the 4KB limit. String measured: {json.dumps(over, separators=(',', ':'))}"
    )


def test_the_environment_is_measured_in_bytes() -> None:
    assert "4KB limit" in refusal(env={"AB": "ä" * 2048})


def test_reserved_variables_are_refused_by_name() -> None:
    assert refusal(env={"AWS_REGION": "x", "_HANDLER": "y", "OK": "z"}).startswith("The environment variable name")
    assert refusal(env={"AWS_REGION": "x", "LAMBDA_TASK_ROOT": "y", "OK": "z"}).endswith(
        "Reserved keys used in this request: AWS_REGION, LAMBDA_TASK_ROOT"
    )


@pytest.mark.parametrize("env", [{"A": "x"}, {"1A": "x"}, {"A-B": "x"}, {"A=B": "x"}, {"": "x"}, {"AB": "a\0b"}])
def test_variables_that_no_process_can_have_are_refused(env: dict[str, str]) -> None:
    assert refusal(env=env).startswith("The environment variable")


@pytest.mark.parametrize("origin", ["example.com", "https://", "https://a/b", "null", "javascript:x", "https://a b"])
def test_what_is_no_origin_is_refused(origin: str) -> None:
    assert "is no origin" in refusal(allowed_origins=(origin,))


def test_origins_are_allowed_with_ports_and_as_a_star() -> None:
    check(
        SPEC.with_changes(allowed_origins=("*", "https://app.example.com", "http://localhost:5173", "http://[::1]:8"))
    )


@pytest.mark.parametrize(
    "changes",
    [
        {"code_sha256": "01"},
        {"timeout_s": 4},
        {"memory_mb": 256},
        {"env": {"AB": "x"}},
        {"handler": "app.other"},
        {"runtime": "python3.12"},
        {"scale": ScaleSpec(concurrency=2)},
        {"async_": AsyncSpec(max_retries=1)},
        {"async_": AsyncSpec(retry_delays_s=(1.0,))},
    ],
)
def test_instances_are_replaced_for_what_they_were_started_with(changes: dict[str, Any]) -> None:
    assert needs_new_instances(SPEC, SPEC.with_changes(**changes))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"env": {}},
        {"aws": {"Description": "x"}},
        {"scale": ScaleSpec(min_instances=1, max_instances=3, idle_s=5)},
        {"allowed_origins": ("*",)},
        {"async_": AsyncSpec(max_age_s=60)},
        {"async_": AsyncSpec(max_retries=2)},
        {"async_": AsyncSpec(on_success="function:other", on_failure="stream:a")},
    ],
)
def test_instances_are_kept_for_the_rest(changes: dict[str, Any]) -> None:
    assert not needs_new_instances(SPEC, replace(SPEC, **changes))
