"""An error's body as Lambda writes it, for calls and for management alike (observed answers, service model)."""

import json

_CAPITAL_MESSAGE = frozenset({"ResourceNotFoundException", "ServiceException", "AccessDeniedException"})
"""Error types whose text is under `Message`; all others use `message`."""
_WITHOUT_TYPE = frozenset(
    {
        "ValidationException",
        "RequestEntityTooLargeException",
        "AccessDeniedException",
        "MissingAuthenticationTokenException",
        "UnrecognizedClientException",
        "IncompleteSignatureException",
        "InvalidSignatureException",
    }
)
_SERVICE_FAULT_STATUS = 500


def error_body(error_type: str, status: int, message: str, reason: str = "") -> bytes:
    """The JSON body of a Lambda error; `Type` tells whose fault it is, `Reason` stands in throttles only."""
    document: dict[str, str] = {}
    if error_type not in _WITHOUT_TYPE:
        document["Type"] = "Service" if status >= _SERVICE_FAULT_STATUS else "User"
    document["Message" if error_type in _CAPITAL_MESSAGE else "message"] = message
    if reason:
        document["Reason"] = reason
    return json.dumps(document).encode()
