"""The bodies of /v1 that concern events, for their checks and for OpenAPI. Times are RFC 3339 in UTC."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from forebay_controller.event_input import IDS_MAX

Status = Literal["queued", "running", "delayed", "succeeded", "failed", "cancelled"]


class InvocationOutput(BaseModel):
    """What became of an async event. The last three statuses are final."""

    id: str
    function: str
    status: Status = Field(description="delayed: it waits for a retry, or for the time it was sent for")
    attempts: int = Field(description="Starts so far")
    accepted_at: str = Field(description="Of an event that was sent for later, the time it was sent for")
    ended_at: str | None
    next_attempt_at: str | None = Field(description="While it is delayed")
    duration_ms: float | None = Field(description="How long the last attempt ran")
    reason: str = Field(description="Why it ended without success: RetriesExhausted, EventAgeExceeded, Cancelled …")
    result: Any = Field(description="What the handler returned, when it succeeded")
    result_base64: str | None = Field(description="In place of result when that is neither JSON nor text")
    error: Any = Field(description="Lambda's error document of the last attempt, when it failed")
    payload_omitted: bool = Field(description="The result, or the error, was above 64 KiB and is not kept")


class DeadLetterItem(BaseModel):
    """An event that was given up, as lists show it."""

    id: str = Field(description="Names the dead letter; later ones have higher ids")
    invocation_id: str
    reason: str = Field(examples=["RetriesExhausted", "EventAgeExceeded"])
    attempts: int
    accepted_at: str
    dead_at: str
    error_type: str = Field(description="The last attempt's; empty when there is none")
    error_message: str


class DeadLetterOutput(DeadLetterItem):
    """An event that was given up, whole."""

    payload: Any = Field(description="The event; null when it is not kept any more, or is in payload_base64")
    payload_base64: str | None = Field(description="In place of payload when that is neither JSON nor text")
    payload_bytes: int | None = Field(description="The payload's size; null when it is not kept any more")
    error: Any = Field(description="Lambda's error document of the last attempt")


class DeadLetterList(BaseModel):
    """A page of dead letters, oldest first."""

    dead_letters: list[DeadLetterItem]
    next: str | None = Field(description="`after` of the next page; null: this was the last one")


class RedriveInput(BaseModel):
    """Which dead letters are run again: those of `ids`, or all that fit the filters."""

    model_config = ConfigDict(extra="forbid", strict=True)

    ids: list[str] | None = Field(None, max_length=IDS_MAX)
    all: bool = False
    reason: str = ""
    since: str | int | float = Field("", description="RFC 3339, or seconds since 1970")
    until: str | int | float = ""


class RedriveOutput(BaseModel):
    """What a redrive did."""

    redriven: int = Field(description="Events that are queued again, with all their attempts")
    missing: int = Field(description="Ids that are no dead letters (any more)")


class PurgeOutput(BaseModel):
    """What a purge did."""

    purged: int
