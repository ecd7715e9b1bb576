"""How a function's record changes, and what gateways are told of it. Pure."""

from datetime import datetime
from uuid import uuid4

from forebay_common import limits
from forebay_common.names import LATEST, function_arn
from forebay_common.record import FLAG_DESTINATION_FAILURE, FLAG_DESTINATION_SUCCESS
from forebay_common.routing import RoutingEntry, VersionRoute
from forebay_common.spec import AsyncSpec, FunctionSpec
from forebay_controller import settings_rules
from forebay_controller.interfaces import FunctionStatus

PENDING = "Pending"
ACTIVE = "Active"
FAILED = "Failed"
DELETING = "Deleting"
IN_PROGRESS = "InProgress"
SUCCESSFUL = "Successful"
# AWS answers this one reason for both a creation and an update.
BEING_CREATED = "The function is being created."
BEING_CREATED_CODE = "Creating"


def created(wanted: FunctionSpec, *, uid: str, now: datetime, pending: bool) -> FunctionSpec:
    """A new function's first record; `pending` for clients that watch it become active, as Lambda's do."""
    return wanted.with_changes(
        uid=uid,
        revision=1,
        revision_id=str(uuid4()),
        last_modified=timestamp(now),
        state=PENDING if pending else ACTIVE,
        state_reason=BEING_CREATED if pending else "",
        state_reason_code=BEING_CREATED_CODE if pending else "",
        update_status="" if pending else SUCCESSFUL,
        update_reason="",
        update_reason_code="",
    )


def activated(spec: FunctionSpec) -> FunctionSpec:
    """A pending function can be called."""
    return update_finished(spec).with_changes(state=ACTIVE, state_reason="", state_reason_code="")


def updated(old: FunctionSpec, wanted: FunctionSpec, now: datetime) -> FunctionSpec:
    """A function with other settings or code. Its revision counts on only when instances must be replaced.

    A function that is still pending takes the change with it and shows no update (Lambda shows none while Pending).
    """
    in_progress = old.state != PENDING
    return wanted.with_changes(
        uid=old.uid,
        revision=old.revision + settings_rules.needs_new_instances(old, wanted),
        revision_id=str(uuid4()),
        last_modified=timestamp(now),
        update_status=IN_PROGRESS if in_progress else "",
        update_reason=BEING_CREATED if in_progress else "",
        update_reason_code=BEING_CREATED_CODE if in_progress else "",
    )


def update_finished(spec: FunctionSpec) -> FunctionSpec:
    """No instance of an older revision takes calls any more."""
    return spec.with_changes(
        revision_id=str(uuid4()), update_status=SUCCESSFUL, update_reason="", update_reason_code=""
    )


def routing_entry(spec: FunctionSpec, status: FunctionStatus, *, region: str, account: str) -> RoutingEntry:
    """What gateways must know of a function."""
    timeout_ms = spec.timeout_s * 1000
    max_age_s = limits.ASYNC_AGE_MAX_S if spec.async_.max_age_s is None else spec.async_.max_age_s
    return RoutingEntry(
        namespace=spec.namespace,
        name=spec.name,
        uid=spec.uid,
        arn=function_arn(region, account, spec.name),
        state=spec.state,
        versions={LATEST: VersionRoute(spec.revision, timeout_ms, spec.memory_mb)},
        capacity=status.capacity,
        max_capacity=spec.scale.max_instances * spec.scale.concurrency,
        sync_queue_max=limits.SYNC_QUEUE_MAX,
        async_queue_max=limits.ASYNC_QUEUE_MAX,
        wait_ms=max(limits.WAIT_DEFAULT_MS, timeout_ms + limits.WAIT_MARGIN_MS),
        async_age_ms=max_age_s * 1000,
        cannot_start=status.cannot_start,
        retry_at_ms=status.retry_at_ms,
        allowed_origins=list(spec.allowed_origins),
        auth=spec.auth,
        destinations=destination_flags(spec.async_),
    )


def destination_flags(async_: AsyncSpec) -> int:
    """What the record of an event says of who is told of its end."""
    success = FLAG_DESTINATION_SUCCESS if async_.on_success else 0
    failure = FLAG_DESTINATION_FAILURE if async_.on_failure else 0
    return success | failure


def timestamp(now: datetime) -> str:
    """A moment as FunctionConfiguration's LastModified writes it; `now` is in UTC."""
    return f"{now:%Y-%m-%dT%H:%M:%S}.{now.microsecond // 1000:03}+0000"
