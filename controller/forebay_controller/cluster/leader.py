"""Which of the controllers leads: a Lease, by the rules that all of Kubernetes' own components keep.

A holder renews it every `retry_period_s`; whoever sees it unchanged for its whole duration may take it. No clock is
compared with another's: each process measures by its own how long ago it saw the Lease change. A leader that could
not renew for `renew_deadline_s` must end before others may begin, so it stops at once; one that is asked to stop gives
the Lease up, and a standby, which watches it, takes it over within milliseconds.

The election in the package `kubernetes` neither gives a Lease up nor bounds its requests, so this one is our own.
"""

import asyncio
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from forebay_common import logs
from forebay_controller.cluster.api import LEASES, Api, ApiError, Object
from forebay_controller.cluster.informer import Informer

_log = logs.get(__name__)


@dataclass(frozen=True, slots=True)
class LeaseSettings:
    """Where the Lease is, and its times; see the module."""

    namespace: str
    name: str
    identity: str
    duration_s: float = 15.0
    renew_deadline_s: float = 10.0
    retry_period_s: float = 2.0


@dataclass(frozen=True, slots=True)
class Seen:
    """The Lease as it was seen last, and when it was seen to change, by this process's clock."""

    lease: Object | None
    changed_s: float


def seen(before: Seen | None, lease: Object | None, now_s: float) -> Seen:
    """After another look at the Lease."""
    if before is not None and _version(before.lease) == _version(lease):
        return before
    return Seen(lease, now_s)


def _version(lease: Object | None) -> str:
    return str(lease["metadata"]["resourceVersion"]) if lease is not None else ""


def free_in_s(what: Seen, identity: str, now_s: float) -> float:
    """In how many seconds the Lease may be taken; 0 or less: now."""
    spec = (what.lease or {}).get("spec") or {}
    if spec.get("holderIdentity") in {None, "", identity}:
        return 0.0
    return what.changed_s + float(spec.get("leaseDurationSeconds") or 0) - now_s


def taken(lease: Object | None, settings: LeaseSettings, now: datetime) -> Object:
    """The Lease as this process holds it."""
    spec = dict((lease or {}).get("spec") or {})
    moment = now.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    if spec.get("holderIdentity") != settings.identity:
        spec |= {"acquireTime": moment, "leaseTransitions": int(spec.get("leaseTransitions") or 0) + int(bool(lease))}
    spec |= {
        "holderIdentity": settings.identity,
        "renewTime": moment,
        "leaseDurationSeconds": max(1, int(settings.duration_s)),
    }
    metadata = (lease or {}).get("metadata") or {"name": settings.name, "namespace": settings.namespace}
    return {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": metadata, "spec": spec}


def given_up(lease: Object) -> Object:
    """The Lease as nobody's, so that the next one need not wait."""
    return {**lease, "spec": {**lease["spec"], "holderIdentity": "", "leaseDurationSeconds": 1}}


class LeadershipLostError(Exception):
    """The Lease could not be renewed in time, or is somebody else's: nothing may be done in its name any more."""


class Leadership:
    """One process's part in the election. `start`, `acquire`, then `hold` until the end, then `release`."""

    def __init__(self, api: Api, settings: LeaseSettings, clock: Callable[[], float] = time.monotonic) -> None:
        self._settings = settings
        # Of its own, since a renewal must neither wait behind a burst of pods nor hang longer than the deadline.
        self._api = api.apart(request_timeout_s=settings.renew_deadline_s / 2, retry_for_s=0)
        self._clock = clock
        self._changed = asyncio.Event()
        self._informer = Informer(
            self._api,
            LEASES,
            (settings.namespace,),
            field_selector=f"metadata.name={settings.name}",
            on_change=lambda _old, _new: self._changed.set(),
        )
        self._held: Object | None = None

    @property
    def leads(self) -> bool:
        """Whether this process holds the Lease, as far as it knows."""
        return self._held is not None

    async def start(self) -> None:
        """Begin to watch the Lease. Raises ApiError when it cannot be listed."""
        await self._informer.start()

    async def acquire(self) -> None:
        """Wait until this process leads."""
        at: Seen | None = None
        while True:
            self._changed.clear()
            key = (self._settings.namespace, self._settings.name)
            at = seen(at, self._informer.objects.get(key), self._clock())
            wait_s = free_in_s(at, self._settings.identity, self._clock())
            if wait_s <= 0:
                try:
                    self._held = await self._write(at.lease)
                except ApiError as error:
                    _log.info("another controller was faster, or the API server is away: %s", error)
                    wait_s = self._settings.retry_period_s * random.uniform(1.0, 1.2)  # noqa: S311 - spreads clients
                else:
                    _log.info("this controller leads")
                    return
            await self._change(wait_s)

    async def _change(self, within_s: float) -> None:
        try:
            async with asyncio.timeout(within_s):
                await self._changed.wait()
        except TimeoutError:
            return

    async def hold(self) -> None:
        """Renew until cancelled. Raises LeadershipLostError."""
        renewed_s = self._clock()
        while True:
            await asyncio.sleep(self._settings.retry_period_s)
            began_s = self._clock()
            left_s = renewed_s + self._settings.renew_deadline_s - began_s
            try:
                async with asyncio.timeout(max(0.0, left_s)):
                    await self._renew()
            except TimeoutError as error:
                raise self._lost("it could not be renewed in time") from error
            except ApiError as error:
                if not error.may_pass:
                    raise self._lost(str(error)) from error
                _log.warning("the Lease was not renewed: %s", error)
            else:
                renewed_s = began_s

    async def _renew(self) -> None:
        """Raises ApiError, or LeadershipLostError when it is somebody else's."""
        try:
            self._held = await self._write(self._held)
        except ApiError as error:
            if error.status != 409:  # noqa: PLR2004 - Conflict
                raise
            # Perhaps with the last renewal, whose answer was lost.
            self._held = await self._api.get(LEASES, self._settings.namespace, self._settings.name)
            if self._held["spec"].get("holderIdentity") != self._settings.identity:
                raise self._lost("another controller has taken it") from error
            self._held = await self._write(self._held)

    def _lost(self, reason: str) -> LeadershipLostError:
        self._held = None
        return LeadershipLostError(reason)

    async def release(self) -> None:
        """Give the Lease up, if it is this process's, so that a standby need not wait for its end."""
        held, self._held = self._held, None
        if held is None:
            return
        try:
            await self._api.replace(LEASES, self._settings.namespace, self._settings.name, given_up(held))
        except ApiError as error:
            _log.warning("the Lease could not be given up, standbys wait until it has run out: %s", error)

    async def close(self) -> None:
        """Stop watching."""
        await self._informer.close()
        await self._api.close()

    async def _write(self, lease: Object | None) -> Object:
        """Take or renew the Lease as it was seen. Raises ApiError; 409 when it has changed meanwhile."""
        body = taken(lease, self._settings, datetime.now(UTC))
        if lease is None:
            return await self._api.create(LEASES, self._settings.namespace, body)
        return await self._api.replace(LEASES, self._settings.namespace, self._settings.name, body)
