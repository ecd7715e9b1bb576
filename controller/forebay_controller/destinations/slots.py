"""How many records are in memory and on their way at a time, over all functions, shared so that no receiver takes all.

While others wait, a receiver gets no more than its share: what slow ones hold leaves room for one more receiver.
"""

import asyncio
import contextlib
from collections import Counter, deque
from collections.abc import AsyncIterator

from forebay_controller.destinations.decisions import share_of


class Slots:
    """So many records under way together. A receiver is any text that is the same for those who share its part."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._held: Counter[str] = Counter()
        self._waiting: dict[str, deque[asyncio.Future[None]]] = {}

    def has_room(self, receiver: str) -> bool:
        """Whether a record for a receiver could be under way at once."""
        return receiver not in self._waiting and self._may_have_one(receiver)

    @contextlib.asynccontextmanager
    async def hold(self, receiver: str) -> AsyncIterator[None]:
        """What a record for a receiver must hold as long as it is in memory; those of one receiver come in order."""
        await self._take(receiver)
        try:
            yield
        finally:
            self._give_back(receiver)

    async def _take(self, receiver: str) -> None:
        place: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(receiver, deque()).append(place)
        self._grant()
        try:
            await place
        except asyncio.CancelledError:
            if place.cancelled():
                self._leave(receiver, place)
            else:
                self._give_back(receiver)
            raise

    def _leave(self, receiver: str, place: asyncio.Future[None]) -> None:
        waiting = self._waiting.get(receiver, deque())
        if place in waiting:
            waiting.remove(place)
            if not waiting:
                del self._waiting[receiver]
        self._grant()  # the others' share may be larger now

    def _give_back(self, receiver: str) -> None:
        self._held[receiver] -= 1
        if not self._held[receiver]:
            del self._held[receiver]
        self._grant()

    def _grant(self) -> None:
        """Let those go on who may: of all that wait, the receiver that holds least."""
        while self._waiting:
            receiver = min(self._waiting, key=self._held.__getitem__)
            if not self._may_have_one(receiver):
                return
            # It comes last among those that hold as much.
            waiting = self._waiting.pop(receiver)
            place = waiting.popleft()
            if not place.done():  # else whose it was is being cancelled
                self._held[receiver] += 1
                place.set_result(None)
            if waiting:
                self._waiting[receiver] = waiting

    def _may_have_one(self, receiver: str) -> bool:
        active = len(self._held.keys() | self._waiting.keys() | {receiver})
        return self._held.total() < self._total and self._held[receiver] < share_of(self._total, active)
