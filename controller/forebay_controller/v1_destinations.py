"""/v1/functions/NAME/signing-secret: what a receiver checks posted records by, for whoever manages the function."""

from typing import Any

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, Field

from forebay_controller.destinations.signing import secret_text, signing_secret
from forebay_controller.v1_access import functions_of, require
from forebay_controller.v1_models import ErrorOutput

_NOT_FOUND: dict[int | str, dict[str, Any]] = {404: {"model": ErrorOutput, "description": "No such function"}}


class SigningSecretOutput(BaseModel):
    """A function's signing secret."""

    secret: str = Field(description="As Standard Webhooks' libraries take it: whsec_ and base64")


class DestinationsApi:
    """The routes about destinations."""

    def __init__(self, signing_key: bytes) -> None:
        self._signing_key = signing_key
        self.router = APIRouter(tags=["events"])
        path = "/v1/functions/{name}/signing-secret"
        self.router.add_api_route(path, self.get_signing_secret, methods=["GET"], responses=_NOT_FOUND)

    async def get_signing_secret(self, name: str, request: Request, response: Response) -> SigningSecretOutput:
        """The secret that records posted for a function are signed with; a function that is made anew has another."""
        spec = require(functions_of(request, name), name)
        response.headers["Cache-Control"] = "no-store"
        return SigningSecretOutput(secret=secret_text(signing_secret(self._signing_key, spec.uid)))
