"""Lambda's errors as its API writes them: status, `x-amzn-ErrorType`, body keys (observed answers, service model)."""

import json
from dataclasses import dataclass
from typing import Self

USER = "User"
SERVICE = "Service"


@dataclass(frozen=True, slots=True)
class _Kind:
    """How one error code is written. `fault` is the `Type` member, "" when the body has none."""

    status: int
    fault: str = USER
    key: str = "message"


_KINDS = {
    "AccessDeniedException": _Kind(403),
    "CodeStorageExceededException": _Kind(413),
    "InvalidParameterValueException": _Kind(400),
    "InvalidRequestContentException": _Kind(400),
    "PreconditionFailedException": _Kind(412),
    "RequestEntityTooLargeException": _Kind(413, fault=""),
    "ResourceConflictException": _Kind(409),
    "ResourceNotFoundException": _Kind(404, key="Message"),
    "SerializationException": _Kind(400),
    "ServiceException": _Kind(500, SERVICE, "Message"),
    "TooManyRequestsException": _Kind(429),
    "UnknownOperationException": _Kind(404),
    # 501 is the one server error that AWS's clients do not retry.
    "UnsupportedOperationException": _Kind(501),
    "ValidationException": _Kind(400, fault=""),
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
        return _KINDS[self.code].status

    def body(self) -> bytes:
        """The JSON body."""
        kind = _KINDS[self.code]
        document = {"Type": kind.fault} if kind.fault else {}
        return json.dumps({**document, kind.key: self.message}).encode()

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
