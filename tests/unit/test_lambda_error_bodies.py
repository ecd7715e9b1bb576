"""Lambda's errors have one shape, whoever answers: the gateway a call, the controller a management operation."""

import json
from typing import Any

import pytest

from forebay_controller.lambda_errors import LambdaError
from forebay_gateway import lambda_errors as of_calls


@pytest.mark.parametrize(
    ("refusal", "document"),
    [
        (of_calls.access_denied("no"), {"Message": "no"}),
        (of_calls.not_found("f"), {"Type": "User", "Message": "Function not found: f"}),
        (of_calls.invalid_parameter("p"), {"Type": "User", "message": "p"}),
        (of_calls.failed("s"), {"Type": "Service", "Message": "s"}),
        (of_calls.validation("v"), {"message": "1 validation error detected: v"}),
    ],
)
def test_both_write_an_error_alike(refusal: of_calls.Refusal, document: dict[str, Any]) -> None:
    assert json.loads(refusal.body()) == document
    assert json.loads(LambdaError(refusal.error_type, refusal.message).body()) == document
