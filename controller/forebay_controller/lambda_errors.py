"""Lambda's errors as its API writes them: status, `x-amzn-ErrorType`, body keys (observed answers, service model)."""

from typing import Self
from uuid import uuid4

from starlette.responses import Response

from forebay_common.auth_errors import AuthError
from forebay_common.lambda_errors import error_body

_STATUSES = {
    "AccessDeniedException": 403,
    "CodeStorageExceededException": 413,
    "InvalidParameterValueException": 400,
    "InvalidRequestContentException": 400,
    "PreconditionFailedException": 412,
    "RequestEntityTooLargeException": 413,
    "ResourceConflictException": 409,
    "ResourceNotFoundException": 404,
    "SerializationException": 400,
    "ServiceException": 500,
    "TooManyRequestsException": 429,
    "UnknownOperationException": 404,
    # 501 is the one server error that AWS's clients do not retry.
    "UnsupportedOperationException": 501,
    "ValidationException": 400,
}


class LambdaError(Exception):
    """An error to be answered in Lambda's shape. `code` is one of the names above."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message

    @property
    def status(self) -> int:
        """HTTP status."""
        return _STATUSES[self.code]

    def body(self) -> bytes:
        """The JSON body."""
        return error_body(self.code, self.status, self.message)

    @classmethod
    def invalid(cls, message: str) -> Self:
        """A parameter's value that is refused."""
        return cls("InvalidParameterValueException", message)

    @classmethod
    def not_found(cls, arn: str) -> Self:
        """A function, or its version or alias when the ARN is qualified, that does not exist."""
        return cls("ResourceNotFoundException", f"Function not found: {arn}")

    @classmethod
    def constraints(cls, violations: list[str]) -> Self:
        """A ValidationException that lists what failed, as `lambda_model.violations` words it."""
        plural = "s" if len(violations) != 1 else ""
        text = "; ".join(violations)
        return cls("ValidationException", f"{len(violations)} validation error{plural} detected: {text}")


def error_response(error: LambdaError | AuthError) -> Response:
    """An error's answer, under a request id of its own."""
    code = error.error_type if isinstance(error, AuthError) else error.code
    headers = {"x-amzn-ErrorType": code, "x-amzn-RequestId": str(uuid4())}
    return Response(error.body(), error.status, headers, media_type="application/json")
