"""Finds what nobody reported, and what has had its time.

Leases of instances that went silent; calls that wait for processes that are gone, and these processes' reply lists;
results older than they are kept.

After Redis was away every lease and heartbeat looks as if it were over: then everybody has a whole lease to say that
he lives. The same holds at the start, since a controller that is new does not know. On a Cluster a part may be away:
that is so for each function by itself, and what Redis refuses of one keeps the others from nothing.
"""

import asyncio
import logging
from itertools import islice
from time import monotonic
from typing import TYPE_CHECKING, Protocol

from redis.asyncio import Redis
from redis.exceptions import RedisError, ResponseError

from forebay_common import limits
from forebay_common.events import trim_ended
from forebay_common.keys import PlatformKeys
from forebay_common.orphans import drop_orphans, silent_processes
from forebay_common.queue import trim_dead_letters
from forebay_common.recovery import AWAY_S, reap_expired, reap_processes
from forebay_common.redis_client import command
from forebay_controller.actions import Actions, attempts_max
from forebay_controller.function_state import FunctionState

if TYPE_CHECKING:
    from collections.abc import Iterator

EVERY_S = 1.0
SWEEP_ROUNDS = 60
"""In so many rounds each function is visited that keeps results, so that these go when they have had their time."""
IDLE_VISITS_MAX = 5
"""In a round, of functions without leases and results: a dead consumer that holds nothing can wait."""
AT_ONCE_MAX = 16
"""Functions: those whose part of a Cluster does not answer keep the others waiting for few of their timeouts."""
LOG_EVERY_S = 30.0
_PLATFORM = ""
"""Stands where a function's uid does, for what belongs to none."""

_log = logging.getLogger(__name__)


class Known(Protocol):
    """Functions by uid: all, those with leases, and those that keep results; by what was seen of each last."""

    states: dict[str, FunctionState]
    leasing: dict[str, FunctionState]
    keeping: dict[str, FunctionState]


class Reaper:
    """Goes round functions: those that hold leases each time, the others slowly; and round reply lists."""

    def __init__(
        self,
        redis: Redis,
        platform: PlatformKeys,
        actions: Actions,
        known: Known,
        *,
        lease_ms: int = limits.LEASE_MS,
        result_retention_s: float = limits.RESULT_RETENTION_S,
        every_s: float = EVERY_S,
    ) -> None:
        self._redis = redis
        self._platform = platform
        self._actions = actions
        self._known = known
        self._idle: Iterator[str] = iter(())
        self._lease_ms = lease_ms
        self._retention_ms = int(result_retention_s * 1000)
        self._every_s = every_s
        self._rounds = 0
        self._counts_from_s: dict[str, float] = {}
        self._answered_in: dict[str, int] = {}
        """In which round Redis last answered for a function."""
        self._away_in = -1
        """In which round it last did not for somebody."""
        self._start_counts_from_s = 0.0
        self._silent_processes: set[str] = set()
        self._processes_due = False
        self._troubles: dict[str, RedisError] = {}
        self._log_from_s = 0.0

    async def run(self) -> None:
        """Reap for ever."""
        self._start_counts_from_s = monotonic() + self._lease_ms / 1000
        while True:
            await self.reap()
            await asyncio.sleep(self._every_s)

    def _wait_a_lease(self, uid: str) -> None:
        self._counts_from_s[uid] = monotonic() + self._lease_ms / 1000

    def _note_away(self, uid: str) -> None:
        self._away_in = self._rounds
        self._wait_a_lease(uid)

    def _counts(self, uid: str) -> bool:
        """Whether a lease or heartbeat that looks as if it were over is."""
        return monotonic() >= max(self._start_counts_from_s, self._counts_from_s.get(uid, 0.0))

    async def reap(self) -> None:
        """One round."""
        at_once = asyncio.Semaphore(AT_ONCE_MAX)

        async def visit(state: FunctionState, *, its_turn: bool) -> None:
            async with at_once:
                await self._visit(state, its_turn=its_turn)

        turn = self._rounds % SWEEP_ROUNDS
        visits = {**dict.fromkeys(self._known.leasing, False), **self._take_turns(turn)}
        states = self._known.states
        await asyncio.gather(*(visit(states[uid], its_turn=its) for uid, its in visits.items() if uid in states))
        self._processes_due |= turn == 0
        try:
            await self._reap_processes()
        except RedisError as error:
            self._note_trouble(_PLATFORM, "processes", error)
        self._log_troubles()
        self._forget()
        self._rounds += 1

    def _take_turns(self, turn: int) -> dict[str, bool]:
        """Whose turn it is in this round."""
        idle = [*islice(self._idle, IDLE_VISITS_MAX)]
        if not idle and (turn == 0 or len(self._known.states) > IDLE_VISITS_MAX * SWEEP_ROUNDS):
            self._idle = iter([*self._known.states])
            idle = [*islice(self._idle, IDLE_VISITS_MAX)]
        return dict.fromkeys([*idle, *[*self._known.keeping][turn::SWEEP_ROUNDS]], True)

    async def _visit(self, state: FunctionState, *, its_turn: bool) -> None:
        uid = state.spec.uid
        answered_in = self._answered_in.get(uid, -1)
        if answered_in < self._rounds - 1 and self._away_in > answered_in:
            self._wait_a_lease(uid)  # its Redis may have been away while nobody asked for it
        try:
            if self._counts(uid):
                await self._reap_function(state)
            else:
                await self._look_whether_it_is_away(state)
            if its_turn and state.seen.ended:
                await trim_ended(self._redis, state.queue, self._retention_ms)
        except RedisError as error:
            self._note_trouble(uid, state.spec.key, error)
        else:
            self._answered_in[uid] = self._rounds

    def _forget(self) -> None:
        now_s = monotonic()
        self._counts_from_s = {uid: from_s for uid, from_s in self._counts_from_s.items() if from_s > now_s}
        if self._rounds % SWEEP_ROUNDS == 0:
            known = self._known.states
            self._answered_in = {uid: at for uid, at in self._answered_in.items() if uid in known}

    async def _look_whether_it_is_away(self, state: FunctionState) -> None:
        began_s = monotonic()
        await command(self._redis, "EXISTS", state.queue.sync)
        if monotonic() - began_s > AWAY_S:
            self._note_away(state.spec.uid)

    def _note_trouble(self, uid: str, name: str, error: RedisError) -> bool:
        """Gives whether Redis was away; else only something of this function's is wrong there."""
        self._troubles.setdefault(name, error)
        away = type(error) is not ResponseError
        if away:
            self._note_away(uid)
        return away

    def _log_troubles(self) -> None:
        """One line now and then, however many functions cannot be reaped."""
        if self._troubles and monotonic() >= self._log_from_s:
            name, error = next(iter(self._troubles.items()))
            _log.warning("could not reap %d functions, among them %s: %s", len(self._troubles), name, error)
            self._log_from_s = monotonic() + LOG_EVERY_S
        self._troubles.clear()

    async def _reap_processes(self) -> None:
        """Raises redis.exceptions.RedisError."""
        began_s = monotonic()
        silent = await silent_processes(self._redis, self._platform)
        if monotonic() - began_s > AWAY_S:
            self._note_away(_PLATFORM)
        if not self._counts(_PLATFORM):
            return
        await self._drop_orphans(silent)
        if self._processes_due:
            await reap_processes(self._redis, self._platform)
            self._processes_due = False

    async def _drop_orphans(self, silent: set[str]) -> None:
        """Nobody waits for what a process that has just fallen silent had asked for: what has not started does not."""
        new = silent - self._silent_processes
        seen = silent
        for state in [*self._known.states.values()] if new else ():
            dropped = 0
            if state.seen.sync.queued:
                try:
                    dropped = await drop_orphans(self._redis, self._platform, state.queue, new)
                except RedisError as error:
                    if self._note_trouble(state.spec.uid, state.spec.key, error):
                        seen = silent - new  # they are new in the next round, too
            if dropped:
                _log.warning("dropped %d calls of gateways that are gone", dropped, extra={"function": state.spec.key})
        self._silent_processes = seen

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
            self._note_away(state.spec.uid)
        for consumer, done in reaped.items():
            self._actions.note_recovered(state, consumer, done)
        dead = state.seen.dead
        while dropped := await trim_dead_letters(self._redis, state.queue, dead):
            dead -= dropped
