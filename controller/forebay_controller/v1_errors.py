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
    """An error to be answered as /v1 answers them; `code` is one of `v1_models.ErrorMember`'s."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


def v1_error_response(code: str, message: str) -> JSONResponse:
    """An error's answer."""
    return JSONResponse({"error": {"code": code, "message": message}}, _STATUS_CODES[code])
