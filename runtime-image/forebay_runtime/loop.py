"""The event loop: one epoll, a handful of timers, and what is done at the end of each turn."""

from __future__ import annotations

import select
from time import monotonic

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

READ = select.EPOLLIN
WRITE = select.EPOLLOUT
NEVER = float("inf")
_WAIT_MAX_S = 60.0


class Timer:
    """Calls back once, at a moment of the monotonic clock; set anew as often as needed, at the cost of two stores."""

    __slots__ = ("_loop", "callback", "when")

    def __init__(self, loop: Loop, callback: Callable[[], None]) -> None:
        self._loop = loop
        self.callback = callback
        self.when = NEVER

    def set(self, when: float) -> None:
        """Call back at `when` (seconds of the monotonic clock) instead of whenever was said before."""
        self.when = when
        self._loop.wake_at = min(self._loop.wake_at, when)

    def clear(self) -> None:
        """Do not call back."""
        self.when = NEVER


class Loop:
    """Watches descriptors and timers.

    `now` is the monotonic time at which the current turn began. `wake_at` is a lower bound for the next timer: a
    timer that was set to later leaves it behind, which costs one idle turn and saves a heap on the hot path.
    """

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._watched: dict[int, Callable[[int], None]] = {}
        self._timers: list[Timer] = []
        self._stopped = False
        self.wake_at = NEVER
        self.now = monotonic()

    def watch(self, fd: int, callback: Callable[[int], None], events: int = READ) -> None:
        """Call `callback(events)` in each turn in which the descriptor is ready."""
        self._watched[fd] = callback
        self._epoll.register(fd, events)

    def change(self, fd: int, events: int) -> None:
        """Wait for other events on a watched descriptor."""
        self._epoll.modify(fd, events)

    def unwatch(self, fd: int) -> None:
        """Forget a descriptor; before it is closed, since its number is given out again."""
        if self._watched.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    def timer(self, callback: Callable[[], None]) -> Timer:
        """A timer that lives as long as the loop."""
        timer = Timer(self, callback)
        self._timers.append(timer)
        return timer

    def forget(self, timer: Timer) -> None:
        """Drop a timer."""
        self._timers.remove(timer)

    def stop(self) -> None:
        """End `run` after this turn."""
        self._stopped = True

    def run(self, end_of_turn: Callable[[], None]) -> None:
        """Turn until stopped."""
        while not self._stopped:
            wait_s = min(max(self.wake_at - monotonic(), 0.0), _WAIT_MAX_S)
            events = self._epoll.poll(wait_s)
            self.now = monotonic()
            for fd, event in events:
                # An earlier callback of this turn may have let go of it.
                callback = self._watched.get(fd)
                if callback is not None:
                    callback(event)
            if self.now >= self.wake_at:
                self._run_timers()
            end_of_turn()

    def _run_timers(self) -> None:
        self.wake_at = NEVER
        due = []
        for timer in self._timers:
            if timer.when <= self.now:
                due.append(timer)
            elif timer.when < self.wake_at:
                self.wake_at = timer.when
        for timer in due:
            # An earlier callback may have set it anew.
            if timer.when <= self.now:
                timer.when = NEVER
                timer.callback()
