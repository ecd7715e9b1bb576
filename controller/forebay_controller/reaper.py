"""Finds what nobody reported, and what has had its time.

Leases of instances that went silent; calls that wait for processes that are gone, and these processes' reply lists;
results older than they are kept.

After Redis was away every lease and heartbeat looks as if it were over: then everybody has a whole lease to say that
he lives. The same holds at the start, since a controller that is new does not know.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from time import monotonic

from redis.asyncio import Redis
from redis.exceptions import RedisError

from forebay_common import limits
from forebay_common.events import trim_ended
from forebay_common.keys import PlatformKeys
from forebay_common.orphans import drop_orphans, silent_processes
from forebay_common.queue import trim_dead_letters
from forebay_common.recovery import AWAY_S, reap_expired, reap_processes
from forebay_controller.actions import Actions, attempts_max
from forebay_controller.function_state import FunctionState

EVERY_S = 1.0
SWEEP_ROUNDS = 60
"""Functions without work are passed by in so many rounds: a dead consumer that holds nothing can wait."""

_log = logging.getLogger(__name__)


class Reaper:
    """Goes round functions: those that hold leases each time, the others slowly; and round reply lists."""

    def __init__(
        self,
        redis: Redis,
        platform: PlatformKeys,
        actions: Actions,
        states: Callable[[], Sequence[FunctionState]],
        *,
        lease_ms: int = limits.LEASE_MS,
        result_retention_s: float = limits.RESULT_RETENTION_S,
        every_s: float = EVERY_S,
    ) -> None:
        self._redis = redis
        self._platform = platform
        self._actions = actions
        self._states = states
        self._lease_ms = lease_ms
        self._retention_ms = int(result_retention_s * 1000)
        self._every_s = every_s
        self._round = 0
        self._leases_count_from_s = 0.0
        self._silent_processes: set[str] = set()
        self._processes_due = False

    async def run(self) -> None:
        """Reap for ever."""
        self._wait_a_lease()
        while True:
            try:
                await self.reap()
            except RedisError as error:
                _log.warning("could not reap: %s", error)
                self._wait_a_lease()
            await asyncio.sleep(self._every_s)

    def _wait_a_lease(self) -> None:
        self._leases_count_from_s = monotonic() + self._lease_ms / 1000

    async def reap(self) -> None:
        """One round. Raises redis.exceptions.RedisError."""
        counts = monotonic() >= self._leases_count_from_s
        for at, state in enumerate(self._states()):
            held = state.seen.sync.in_flight or state.seen.async_.in_flight
            its_turn = at % SWEEP_ROUNDS == self._round
            if (held or its_turn) and counts:
                await self._reap_function(state)
            if its_turn and state.seen.ended:
                await trim_ended(self._redis, state.queue, self._retention_ms)
        self._processes_due |= self._round == 0
        if counts:
            await self._drop_orphans()
            if self._processes_due:
                await reap_processes(self._redis, self._platform)
                self._processes_due = False
        self._round = (self._round + 1) % SWEEP_ROUNDS

    async def _drop_orphans(self) -> None:
        """Nobody waits for what a process that has just fallen silent had asked for: what has not started does not."""
        silent = await silent_processes(self._redis, self._platform)
        new = silent - self._silent_processes
        for state in self._states() if new else ():
            dropped = 0
            if state.seen.sync.queued:
                dropped = await drop_orphans(self._redis, self._platform, state.queue, new)
            if dropped:
                _log.warning("dropped %d calls of gateways that are gone", dropped, extra={"function": state.spec.key})
        self._silent_processes = silent

    async def _reap_function(self, state: FunctionState) -> None:
        began_s = monotonic()
        reaped = await reap_expired(
            self._redis,
            self._platform,
            state.queue,
            attempts_max=attempts_max(state.spec),
            lease_ms=self._lease_ms,
        )
        if monotonic() - began_s > AWAY_S:
            self._wait_a_lease()
        for consumer, done in reaped.items():
            self._actions.note_recovered(state, consumer, done)
        dead = state.seen.dead
        while dropped := await trim_dead_letters(self._redis, state.queue, dead):
            dead -= dropped
