"""What must be there before a Function's spec is acted on: code, what instances need, and its revision's record.

Every step may be done again: a leader that dies in between leaves nothing that the next one does not finish.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

from redis.asyncio import Redis

from forebay_common.keys import FunctionKeys, PlatformKeys
from forebay_common.queue import VersionQueue, create_queues
from forebay_common.redis_client import command
from forebay_common.spec import FunctionSpec
from forebay_controller import registry_rules as rules
from forebay_controller.cluster.api import ApiError, Object
from forebay_controller.cluster.code_source import CodeProblemError, CodeReader, stored_size
from forebay_controller.cluster.config_map_watches import ConfigMapWatches, TooManyConfigMapsError
from forebay_controller.cluster.function_record import FunctionRecord
from forebay_controller.cluster.resource import (
    BlobCode,
    CodeSource,
    ConfigMapCode,
    FunctionResource,
    ZipCode,
    revision,
    settings_hash,
)
from forebay_controller.cluster.status import Accepted, Problem
from forebay_controller.cluster.status_writer import StatusWriter
from forebay_controller.code_store import CodeStorageFullError, CodeStore

Prepare = Callable[[FunctionSpec], Awaitable[None]]
"""Makes what a function's instances need besides code and queues (Secret, Redis user, policies); safe to repeat.

Raises PrepareError, ApiError, redis.exceptions.RedisError.
"""


DOWNLOADS_MAX = 4
UPLOADS_MAX = 2
"""Packages of up to 50 MB each that are in memory at a time, by where they come from: a slow download holds up no
upload."""


class PrepareError(Exception):
    """What a function's instances need cannot be made: one word for programs, a sentence for people."""

    def __init__(self, reason: str, message: str, *, may_pass: bool = True) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.may_pass = may_pass


class NotAcceptedError(Exception):
    """A spec cannot be acted on."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.message)
        self.problem = problem


class ObjectGoneError(Exception):
    """The Function was deleted meanwhile."""


class Acceptance:
    """The steps, one Function's by one task at a time."""

    def __init__(
        self,
        redis: Redis,
        platform: PlatformKeys,
        code: CodeStore,
        reader: CodeReader,
        watches: ConfigMapWatches,
        statuses: StatusWriter,
        prepare: Prepare,
    ) -> None:
        self._redis = redis
        self._platform = platform
        self._code = code
        self._reader = reader
        self._watches = watches
        self._statuses = statuses
        self._prepare = prepare
        self._room: dict[type[CodeSource], asyncio.Semaphore] = {
            ZipCode: asyncio.Semaphore(DOWNLOADS_MAX),
            BlobCode: asyncio.Semaphore(UPLOADS_MAX),
        }

    def keys(self, spec: FunctionSpec) -> FunctionKeys:
        """A function's keys."""
        return self._platform.function(spec.namespace, spec.name, spec.uid)

    async def make_ready(self, record: FunctionRecord, item: Object, resource: FunctionResource) -> Accepted:
        """Do everything that must be done before instances may run by what the resource asks for.

        Raises NotAcceptedError, ObjectGoneError, ApiError (409: look at the object again), RedisError.
        """
        spec, source = await self._with_code(record, resource)
        spec = plain(spec).with_changes(revision=revision(spec, item.get("status", {})))
        if record.prepared != spec:
            record.prepared = None
            await self._run_prepare(spec)
            record.prepared = spec
        await self._record_revision(record, item, spec, source)
        accepted = Accepted(spec, resource.generation, source)
        changed = record.accepted is None or record.accepted.spec != spec
        if changed or not record.settled:
            await create_queues(self._redis, VersionQueue(self.keys(spec)))
            await command(self._redis, "SET", self.keys(spec).spec(), spec.to_json())
            record.settled = True
        await self._retire_code(record, spec)
        return accepted

    async def sweep(self, record: FunctionRecord) -> float | None:
        """Delete packages that nothing needs any more; gives the seconds until the next one may go.

        While an update runs, instances of the revision before may need theirs. Raises redis.exceptions.RedisError.
        """
        if record.accepted is None:
            return None
        spec = record.accepted.spec
        left = []
        for sha256 in [*record.old_code - {spec.code_sha256}]:
            left_s = self._code.grace_left_ms(self.keys(spec), sha256) / 1000
            if record.applied_revision < spec.revision:
                left_s = self._code.grace_ms / 1000
            if left_s > 0:
                left.append(left_s)
                continue
            await self._code.remove(self.keys(spec), sha256)
            record.old_code.discard(sha256)
        return min(left, default=None)

    async def _with_code(self, record: FunctionRecord, resource: FunctionResource) -> tuple[FunctionSpec, str]:
        """The spec with its package, which is stored, and the fingerprint of where it came from."""
        source, spec = resource.code, resource.spec
        try:
            await self._watches.follow(record.key, source.name if isinstance(source, ConfigMapCode) else None)
        except TooManyConfigMapsError as error:
            raise NotAcceptedError(Problem("code", "TooManyConfigMaps", str(error), may_pass=True)) from error
        if source is None:
            return spec, ""
        keys = self.keys(spec)
        # What a ConfigMap holds may have changed at any time; every other source is what it says it is.
        if spec.code_sha256 and not isinstance(source, ConfigMapCode):
            size = await stored_size(self._redis, keys, spec.code_sha256)
            if size is not None:
                return spec.with_changes(code_size=size), source.fingerprint
        try:
            async with self._room.get(type(source), contextlib.nullcontext()):
                package = await self._reader.read(spec.namespace, source)
                record.old_code.add(package.sha256)
                await self._code.put(keys, package)
                await self._reader.stored(source, package)
        except CodeProblemError as error:
            problem = Problem("code", error.reason, error.message, may_pass=error.may_pass)
            raise NotAcceptedError(problem) from error
        except CodeStorageFullError as error:
            raise NotAcceptedError(Problem("code", "CodeStorageFull", str(error), may_pass=True)) from error
        return spec.with_changes(code_sha256=package.sha256, code_size=package.size), source.fingerprint

    async def _run_prepare(self, spec: FunctionSpec) -> None:
        try:
            async with self._statuses.slots:
                await self._prepare(spec)
        except PrepareError as error:
            raise NotAcceptedError(Problem("access", error.reason, error.message, may_pass=error.may_pass)) from error
        except ApiError as error:
            text = f"What its pods need cannot be made: {error.message}"
            raise NotAcceptedError(Problem("access", "PrepareFailed", text, may_pass=True)) from error

    async def _record_revision(self, record: FunctionRecord, item: Object, spec: FunctionSpec, source: str) -> None:
        """Write down which revision these settings are, before an instance can bear its number."""
        before = item.get("status", {})
        wanted = {
            "revision": spec.revision,
            "settingsHash": settings_hash(spec),
            "codeSource": source or None,
            "codeSha256": spec.code_sha256 or None,
            "codeSize": spec.code_size or None,
        }
        patch = {name: value for name, value in wanted.items() if before.get(name) != value}
        if patch and await self._statuses.patch(record, patch) is None:
            raise ObjectGoneError

    async def _retire_code(self, record: FunctionRecord, spec: FunctionSpec) -> None:
        """Start the grace period of the package that was the function's until now."""
        before = record.accepted.spec.code_sha256 if record.accepted is not None else ""
        if before and before != spec.code_sha256:
            await self._code.mark_unreferenced(self.keys(spec), before)
            record.old_code.add(before)
        record.old_code.discard(spec.code_sha256)


def plain(spec: FunctionSpec) -> FunctionSpec:
    """A spec as instances and gateways need it, without what only clients of the Lambda API are told."""
    return spec.with_changes(
        state=rules.ACTIVE,
        state_reason="",
        state_reason_code="",
        update_status="",
        update_reason="",
        update_reason_code="",
        revision_id="",
        last_modified="",
        warning="",
        aws={},
    )
