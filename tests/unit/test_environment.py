"""The environment of a handler process."""

from forebay_common.spec import FunctionSpec
from forebay_controller.environment import RESERVED, handler_environment


def environment(env: dict[str, str] | None, access_key: tuple[str, str] | None = None) -> dict[str, str]:
    spec = FunctionSpec("default", "hello", "uid-1", "python3.13", "app.handler", "00", 1, env=env, memory_mb=256)
    return handler_environment(
        spec,
        instance_id="hello-1",
        region="eu-west-1",
        gateway_url="http://127.0.0.1:8480",
        task_root="/var/task",
        runtime_dir="/var/runtime",
        tmp_dir="/tmp",
        access_key=access_key,
    )


def test_a_function_finds_the_variables_that_lambda_defines() -> None:
    found = environment(None)
    assert found["AWS_LAMBDA_FUNCTION_NAME"] == "hello"
    assert found["AWS_LAMBDA_FUNCTION_MEMORY_SIZE"] == "256"
    assert found["AWS_REGION"] == found["AWS_DEFAULT_REGION"] == "eu-west-1"
    assert found["AWS_EXECUTION_ENV"] == "AWS_Lambda_python3.13"
    assert found["_HANDLER"] == "app.handler"
    assert found["LAMBDA_TASK_ROOT"] == "/var/task"


def test_the_users_variables_pass_and_win_over_settable_ones() -> None:
    found = environment({"GREETING": "hi", "TZ": "Europe/Vienna", "AWS_ENDPOINT_URL_LAMBDA": "http://elsewhere"})
    assert (found["GREETING"], found["TZ"]) == ("hi", "Europe/Vienna")
    assert found["AWS_ENDPOINT_URL_LAMBDA"] == "http://elsewhere"


def test_reserved_variables_stay_the_platforms() -> None:
    plain = environment(None)
    claimed = environment(dict.fromkeys(RESERVED, "mine"))
    assert {name: claimed[name] for name in RESERVED & plain.keys()} == {
        name: plain[name] for name in RESERVED & plain.keys()
    }


def test_an_instance_gets_no_credential_of_the_platform() -> None:
    assert not [name for name in environment(None) if "REDIS" in name or "VALKEY" in name]


def test_a_function_brings_its_own_aws_keys_or_gets_placeholders() -> None:
    assert environment(None)["AWS_SESSION_TOKEN"] == environment(None)["AWS_ACCESS_KEY_ID"] == "forebay"
    own = environment({"AWS_ACCESS_KEY_ID": "AKIA", "AWS_SECRET_ACCESS_KEY": "secret"})
    assert (own["AWS_ACCESS_KEY_ID"], own["AWS_SECRET_ACCESS_KEY"]) == ("AKIA", "secret")
    assert "AWS_SESSION_TOKEN" not in own


def test_a_function_gets_a_key_to_call_others_where_the_platform_asks_for_one() -> None:
    found = environment(None, ("FBAK", "s"))
    assert (found["AWS_ACCESS_KEY_ID"], found["AWS_SECRET_ACCESS_KEY"]) == ("FBAK", "s")
    assert "AWS_SESSION_TOKEN" not in found
    own = environment({"AWS_ACCESS_KEY_ID": "AKIA"}, ("FBAK", "s"))
    assert (own["AWS_ACCESS_KEY_ID"], own.get("AWS_SECRET_ACCESS_KEY")) == ("AKIA", None)
