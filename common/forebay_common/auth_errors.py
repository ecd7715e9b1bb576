"""The answer to a request whose credentials are missing, wrong, or not enough; the same at gateways and controllers.

Types and texts are AWS's own as its edge answers them (observed; API Gateway's and Lambda's common errors).
"""

from forebay_common.lambda_errors import error_body

FORBIDDEN = 403


class AuthError(Exception):
    """A request that is not let in: HTTP `status`, AWS's `error_type` and `message`."""

    def __init__(self, error_type: str, message: str, status: int = FORBIDDEN) -> None:
        super().__init__(message)
        self.error_type = error_type
        self.message = message
        self.status = status

    def body(self) -> bytes:
        """The JSON body, as AWS shapes it."""
        return error_body(self.error_type, self.status, self.message)


def missing() -> AuthError:
    """The request carries no credential at all."""
    return AuthError("MissingAuthenticationTokenException", "Missing Authentication Token")


def unrecognized() -> AuthError:
    """There is no such access key, or the key's secret is another; which of both is nobody's business."""
    return AuthError("UnrecognizedClientException", "The security token included in the request is invalid.")


def incomplete(message: str) -> AuthError:
    """The Authorization header is not what Signature Version 4 writes."""
    return AuthError("IncompleteSignatureException", message)


def bad_signature(
    message: str = "The request signature we calculated does not match the signature you provided. Check your AWS "
    "Secret Access Key and signing method. Consult the service documentation for details.",
) -> AuthError:
    """The signature, its date, region or service is not what this request needs."""
    return AuthError("InvalidSignatureException", message)


def no_signing_key(date: str) -> AuthError:
    """The access key is known, but not the key derived from it for a day: nobody has published that one."""
    return AuthError(
        "ServiceException",
        f"There is no signing key for {date} yet: the controller publishes one for each day. Try again, or use the "
        "API key (Authorization: Bearer) meanwhile.",
        503,
    )


def access_denied(access_key_id: str, action: str, resource: str) -> AuthError:
    """The credential is good, but does not allow `action` (`InvokeFunction`, …) on `resource` (an ARN, or `*`)."""
    return AuthError(
        "AccessDeniedException",
        f"User: forebay:{access_key_id} is not authorized to perform: lambda:{action} on resource: {resource}",
    )
