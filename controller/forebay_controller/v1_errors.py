"""/v1's errors as it writes them: `{"error": {"code", "message"}}`."""

from starlette.responses import JSONResponse

_STATUS_CODES: dict[str, int] = {
    "invalid": 400,
    "unauthenticated": 403,
    "forbidden": 403,
    "not_found": 404,
    "method_not_allowed": 405,
    "conflict": 409,
    "too_large": 413,
    "too_many": 429,
    "internal": 500,
    "unavailable": 503,
}


class V1Error(Exception):
    """An error to be answered as /v1 answers them; `code` is one of `v1_models.ErrorMember`'s.

    `retry_after_s` (0: not said) is when it is worth trying again.
    """

    def __init__(self, code: str, message: str, *, retry_after_s: int = 0) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.retry_after_s = retry_after_s


def v1_error_response(code: str, message: str, *, retry_after_s: int = 0) -> JSONResponse:
    """An error's answer."""
    headers = {"Retry-After": str(retry_after_s)} if retry_after_s else None
    return JSONResponse({"error": {"code": code, "message": message}}, _STATUS_CODES[code], headers)
