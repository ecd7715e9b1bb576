"""Operations, paths and constraints as botocore's service model draws them."""

import json
from typing import Any

import pytest

from forebay_controller.lambda_errors import LambdaError
from forebay_controller.lambda_model import Request, compiled, load

MODEL = load()
ARN = "arn%3Aaws%3Alambda%3Aus-east-1%3A000000000000%3Afunction%3Af%3A%24LATEST"
MINIMAL = {"FunctionName": "f", "Role": "arn:aws:iam::000000000000:role/r", "Code": {"ZipFile": "UEs="}}


def request(method: str, path: str, query: str = "") -> Request:
    found = MODEL.match(method, path, query)
    assert found is not None
    return found


def create(**changes: Any) -> dict[str, Any]:
    return MODEL.read(request("POST", "/2015-03-31/functions"), json.dumps(MINIMAL | changes).encode())


def refusal(**changes: Any) -> tuple[str, str]:
    with pytest.raises(LambdaError) as caught:
        create(**changes)
    return caught.value.code, caught.value.message


@pytest.mark.parametrize(
    ("method", "path", "query", "name"),
    [
        ("POST", "/2015-03-31/functions", "", "CreateFunction"),
        ("POST", "/2015-03-31/functions/", "", "CreateFunction"),
        ("GET", "/2015-03-31/functions", "MaxItems=1", "ListFunctions"),
        ("GET", "/2015-03-31/functions/f", "", "GetFunction"),
        ("DELETE", "/2015-03-31/functions/f", "", "DeleteFunction"),
        ("PUT", "/2015-03-31/functions/f/code", "", "UpdateFunctionCode"),
        ("GET", "/2016-08-19/account-settings", "", "GetAccountSettings"),
        ("GET", f"/2017-03-31/tags/{ARN}", "", "ListTags"),
        ("GET", "/2019-09-25/functions/f/event-invoke-config/list", "", "ListFunctionEventInvokeConfigs"),
        ("GET", "/2019-09-30/functions/f/provisioned-concurrency", "List=ALL", "ListProvisionedConcurrencyConfigs"),
        ("GET", "/2019-09-30/functions/f/provisioned-concurrency", "", "GetProvisionedConcurrencyConfig"),
    ],
)
def test_a_path_means_its_operation(method: str, path: str, query: str, name: str) -> None:
    assert request(method, path, query).operation.name == name


@pytest.mark.parametrize(("method", "path"), [("GET", "/2015-03-31/nothing"), ("PATCH", "/2015-03-31/functions")])
def test_other_paths_mean_none(method: str, path: str) -> None:
    assert MODEL.match(method, path, "") is None


def test_labels_are_percent_decoded() -> None:
    found = request("GET", f"/2015-03-31/functions/{ARN}")
    assert found.labels == {"FunctionName": "arn:aws:lambda:us-east-1:000000000000:function:f:$LATEST"}


def test_every_pattern_of_the_model_is_understood() -> None:
    for shape in MODEL.shapes.values():
        if "pattern" in shape:
            compiled(shape["pattern"])


def test_every_operation_is_reached_by_its_own_path() -> None:
    for operation in MODEL.operations.values():
        path = "/" + "/".join("x" if part.startswith("{") else part for part in operation.segments)
        query = "&".join(f"{key}={value}" for key, value in operation.query.items())
        assert request(operation.method, path, query).operation is operation


def test_input_comes_from_path_query_and_body() -> None:
    found = request("GET", "/2015-03-31/functions/f%3Aprod", "Qualifier=%24LATEST")
    assert MODEL.read(found, b"") == {"FunctionName": "f:prod", "Qualifier": "$LATEST"}
    assert MODEL.read(request("GET", "/2015-03-31/functions", "MaxItems=7"), b"") == {"MaxItems": 7}
    found = request("DELETE", f"/2017-03-31/tags/{ARN}", "tagKeys=a&tagKeys=b")
    assert MODEL.read(found, b"")["TagKeys"] == ["a", "b"]


def test_nulls_are_as_if_absent() -> None:
    assert create(Description=None, Environment={"Variables": None}) == MINIMAL | {"Environment": {}}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"MemorySize": 64},
            (
                "1 validation error detected: Value '64' at 'memorySize' failed to satisfy constraint: "
                "Member must have value greater than or equal to 128"
            ),
        ),
        (
            {"Timeout": 901},
            (
                "1 validation error detected: Value '901' at 'timeout' failed to satisfy constraint: "
                "Member must have value less than or equal to 900"
            ),
        ),
        (
            {"Role": None},
            "1 validation error detected: Value null at 'role' failed to satisfy constraint: Member must not be null",
        ),
        (
            {"Architectures": ["mips"]},
            (
                "1 validation error detected: Value '[mips]' at 'architectures' failed to satisfy constraint: "
                "Member must satisfy constraint: [Member must satisfy enum value set: [x86_64, arm64]]"
            ),
        ),
        (
            {"TracingConfig": {"Mode": "Sometimes"}},
            (
                "1 validation error detected: Value 'Sometimes' at 'tracingConfig.mode' failed to satisfy constraint: "
                "Member must satisfy enum value set: [Active, PassThrough]"
            ),
        ),
        (
            {"Environment": {"Variables": {"1": "secret"}}},
            (
                "1 validation error detected: Value at 'environment.variables' failed to satisfy constraint: "
                "Map keys must satisfy constraint: "
                "[Member must satisfy regular expression pattern: [a-zA-Z]([a-zA-Z0-9_])+]"
            ),
        ),
        (
            {"Tags": {"a": "x" * 257}},
            (
                f"1 validation error detected: Value '{{a={'x' * 257}}}' at 'tags' failed to satisfy constraint: "
                "Map value must satisfy constraint: [Member must have length less than or equal to 256, "
                "Member must have length greater than or equal to 0, "
                r"Member must satisfy regular expression pattern: ([\p{L}\p{Z}\p{N}_.:/=+\-@]*)]"
            ),
        ),
        (
            {"FileSystemConfigs": [{"Arn": "x", "LocalMountPath": "/x"}]},
            "2 validation errors detected: Value 'x' at 'fileSystemConfigs.1.member.arn'",
        ),
    ],
)
def test_constraints_are_worded_as_aws_words_them(changes: dict[str, Any], message: str) -> None:
    code, text = refusal(**changes)
    assert code == "ValidationException"
    assert text.startswith(message)


def test_several_violations_are_listed_together() -> None:
    code, text = refusal(FunctionName="a b", Timeout=0, Handler="a b")
    assert code == "ValidationException"
    assert text.startswith("3 validation errors detected: Value 'a b' at 'functionName' failed")
    assert "; Value '0' at 'timeout' failed" in text


def test_letters_of_any_script_are_letters_in_tags() -> None:
    assert create(Tags={"größe": "ひ 1"})["Tags"] == {"größe": "ひ 1"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"Timeout": "3"}, "STRING_VALUE can not be converted to an Integer"),
        ({"Timeout": True}, "TRUE_VALUE can not be converted to an Integer"),
        ({"FunctionName": 3}, "NUMBER_VALUE can not be converted to a String"),
        ({"FunctionName": {}}, "Start of structure or map found where not expected."),
        ({"FunctionName": []}, "Start of list found where not expected"),
        ({"Tags": {"a": "\ud800"}}, "A text holds half of a surrogate pair"),
    ],
)
def test_other_types_are_serialization_errors(changes: dict[str, Any], message: str) -> None:
    assert refusal(**changes) == ("SerializationException", message)


def test_members_the_model_does_not_know_are_refused_by_name() -> None:
    assert refusal(Speed=9) == ("InvalidParameterValueException", "The parameter Speed is not supported")
    assert refusal(Code={"Tar": "x"})[1] == "The parameter Code.Tar is not supported"


@pytest.mark.parametrize("body", [b"{", b"[1]", b"NaN", b"\xff", b"[" * 100_000, b"1" * 5_000, b'"x"', b"null"])
def test_a_body_that_is_no_json_object_is_refused(body: bytes) -> None:
    with pytest.raises(LambdaError) as caught:
        MODEL.read(request("POST", "/2015-03-31/functions"), body)
    assert caught.value.status == 400


def test_a_query_that_cannot_be_read_is_refused() -> None:
    with pytest.raises(LambdaError):
        MODEL.match("GET", "/2015-03-31/functions", "&".join(["a=1"] * 1000))
    with pytest.raises(LambdaError):
        MODEL.read(request("GET", "/2015-03-31/functions", "MaxItems=many"), b"")
