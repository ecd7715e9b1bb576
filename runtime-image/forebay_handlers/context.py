"""Lambda's context object, as the managed Python runtime builds it (attributes and texts of awslambdaric)."""

import json
import sys
import time

from forebay_handlers.errors import FaultError, text_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Dict, Optional


class CognitoIdentity:
    """Who called through Cognito; always empty here."""

    __slots__ = ("cognito_identity_id", "cognito_identity_pool_id")

    def __init__(self) -> None:
        self.cognito_identity_id = None
        self.cognito_identity_pool_id = None

    def __repr__(self) -> str:
        return _shown(self, self.__slots__)


class Client:
    """The mobile client part of a client context."""

    __slots__ = ("app_package_name", "app_title", "app_version_code", "app_version_name", "installation_id")

    def __init__(self, document: "Dict[str, Any]") -> None:
        for name in self.__slots__:
            setattr(self, name, document.get(name))

    def __repr__(self) -> str:
        return _shown(self, self.__slots__)


class ClientContext:
    """What the caller sent as client context: `custom`, `env` and `client`."""

    __slots__ = ("client", "custom", "env")

    def __init__(self, document: "Dict[str, Any]") -> None:
        self.custom = document.get("custom")
        self.env = document.get("env")
        client = document.get("client")
        self.client = Client(client) if isinstance(client, dict) else None

    def __repr__(self) -> str:
        return _shown(self, self.__slots__)


class LambdaContext:
    """One call's context. `deadline_ms` is Unix time."""

    def __init__(
        self,
        function: "Dict[str, Optional[str]]",
        request_id: str,
        arn: str,
        deadline_ms: int,
        client_context: "Optional[ClientContext]",
        now: "Callable[[], float]" = time.time,
    ) -> None:
        self.aws_request_id = request_id
        self.invoked_function_arn = arn
        self.log_group_name = function["AWS_LAMBDA_LOG_GROUP_NAME"]
        self.log_stream_name = function["AWS_LAMBDA_LOG_STREAM_NAME"]
        self.function_name = function["AWS_LAMBDA_FUNCTION_NAME"]
        self.function_version = function["AWS_LAMBDA_FUNCTION_VERSION"]
        self.memory_limit_in_mb = function["AWS_LAMBDA_FUNCTION_MEMORY_SIZE"]
        self.tenant_id = None
        self.client_context = client_context
        self.identity = CognitoIdentity()
        self._epoch_deadline_time_in_ms = deadline_ms
        self._now = now

    def get_remaining_time_in_millis(self) -> int:
        """Milliseconds until the call is ended, never below 0."""
        return max(0, self._epoch_deadline_time_in_ms - int(self._now() * 1000))

    def log(self, message: "Any") -> None:
        """Write to the function's log (deprecated on Lambda too; `print` does the same)."""
        sys.stdout.write(str(message))

    def __repr__(self) -> str:
        names = (
            "aws_request_id",
            "log_group_name",
            "log_stream_name",
            "function_name",
            "memory_limit_in_mb",
            "function_version",
            "invoked_function_arn",
            "client_context",
            "identity",
            "tenant_id",
        )
        return _shown(self, names)


FUNCTION_VARIABLES = (
    "AWS_LAMBDA_LOG_GROUP_NAME",
    "AWS_LAMBDA_LOG_STREAM_NAME",
    "AWS_LAMBDA_FUNCTION_NAME",
    "AWS_LAMBDA_FUNCTION_VERSION",
    "AWS_LAMBDA_FUNCTION_MEMORY_SIZE",
)
"""Where a context's constant attributes come from; read once, since a handler may clear its environment."""


_decode = json.JSONDecoder().decode
"""Bound here: a handler may replace the json module's own functions."""


def parse_client_context(data: bytes) -> ClientContext:
    """A client context from its JSON. Raises FaultError."""
    try:
        return ClientContext(_object(_decode(data.decode())))
    except (ValueError, TypeError, RecursionError) as error:
        raise FaultError(
            "Runtime.LambdaContextUnmarshalError", f"Unable to parse Client Context JSON: {text_of(error)}"
        ) from None


def _object(value: "Any") -> "Dict[str, Any]":
    if not isinstance(value, dict):
        raise TypeError(f"expected an object, not {type(value).__name__}")
    return value


def _shown(thing: object, names: "tuple[str, ...]") -> str:
    inner = ",".join(f"{name}={getattr(thing, name)}" for name in names)
    return f"{type(thing).__name__}([{inner}])"
