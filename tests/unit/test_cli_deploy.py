import base64

import pytest

from forebay_cli import deploy as deploying
from forebay_cli.deploy import Built, DeployOptions, parse_env, put_document
from forebay_cli.errors import UserError
from forebay_cli.requirements import cache_key
from forebay_controller.interpreters import Interpreter

PYTHON = Interpreter("3.12", "/usr/bin/python3.12", "/usr")


def test_only_what_was_given_is_sent_so_that_an_update_keeps_the_rest() -> None:
    document = put_document(Built(b"zip", "app.handler", "python3.12"), DeployOptions())

    assert document == {
        "runtime": "python3.12",
        "handler": "app.handler",
        "code": {"zip_base64": base64.b64encode(b"zip").decode()},
    }


def test_every_option_finds_its_member() -> None:
    options = DeployOptions(
        None, None, 5, 256, {"A": "1"}, 0, 3, 2, 4.5, ("https://app.example",), auth="none", egress="cluster"
    )

    document = put_document(Built(b"", "app.handler", "python3.12"), options)

    assert document["timeout_s"] == 5
    assert document["memory_mb"] == 256
    assert document["env"] == {"A": "1"}
    assert document["scale"] == {"min_instances": 0, "max_instances": 3, "concurrency": 2, "idle_s": 4.5}
    assert document["allowed_origins"] == ["https://app.example"]
    assert (document["auth"], document["egress"]) == ("none", "cluster")


def test_async_options_find_their_members() -> None:
    options = DeployOptions(
        max_retries=0, max_age_s=60, retry_delays_s=(1.0, 2.0), on_success="function:other", on_failure="https://a/b"
    )

    assert put_document(None, options) == {
        "async": {
            "max_retries": 0,
            "max_age_s": 60,
            "retry_delays_s": [1.0, 2.0],
            "on_success": "function:other",
            "on_failure": "https://a/b",
        }
    }


def test_none_takes_a_destination_away() -> None:
    assert put_document(None, DeployOptions(on_failure="none")) == {"async": {"on_failure": None}}


def test_an_image_takes_the_place_of_code() -> None:
    assert put_document(None, DeployOptions(image="app:1")) == {"image": {"uri": "app:1"}}


def test_env_takes_values_with_equals_signs_and_refuses_what_has_none() -> None:
    assert parse_env(["A=1", "URL=x?a=b", "EMPTY="]) == {"A": "1", "URL": "x?a=b", "EMPTY": ""}
    for wrong in ("A", "=1"):
        with pytest.raises(UserError, match="NAME=VALUE"):
            parse_env([wrong])


def test_the_cache_tells_requirements_and_interpreters_apart() -> None:
    other = Interpreter("3.13", "/usr/bin/python3.13", "/usr")
    keys = {cache_key(b"humanize==4.12\n", PYTHON), cache_key(b"humanize==4.13\n", PYTHON)}
    keys.add(cache_key(b"humanize==4.12\n", other))

    assert len(keys) == 3
    assert cache_key(b"humanize==4.12\n", PYTHON) in keys


@pytest.mark.parametrize("line", ["-r other.txt", "-c limits.txt", "-e .", "./lib", "lib @ file:///lib"])
def test_requirements_that_refer_to_other_files_are_not_cached(line: str) -> None:
    assert cache_key(f"humanize\n{line}\n".encode(), PYTHON) is None


def test_a_runtime_is_chosen_that_the_platform_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deploying, "own_runtime", lambda: "python3.11")
    assert deploying.choose_runtime(["app.py"], []) == "python3.11"
    assert deploying.choose_runtime(["app.py"], ["python3.11", "python3.13"]) == "python3.11"
    assert deploying.choose_runtime(["app.py"], ["provided", "python3.9", "python3.13"]) == "python3.13"
    assert deploying.choose_runtime(["bootstrap"], ["python3.13", "provided"]) == "provided"
    with pytest.raises(UserError, match=r"no provided runtime, it has: python3\.13"):
        deploying.choose_runtime(["bootstrap"], ["python3.13"])
