"""The answer to a plain call that no task waits for: whoever settles the call gives it."""

from abc import ABC, abstractmethod
from typing import Protocol

from forebay_gateway.connection import ClientConnection
from forebay_gateway.identifiers import RandomSource
from forebay_gateway.lambda_errors import ClientLeft, Refusal
from forebay_gateway.replies import Reply, Settlement
from forebay_gateway.sync_call import Connection, SyncCall
from forebay_gateway.table import Function, Route

Answer = tuple[int, bytes, bytes]
"""Status, header lines and body, as `ClientConnection.answer` takes them."""


class PlainCalls(Protocol):
    """What is needed of the dispatcher (`dispatch.Dispatcher`)."""

    random: RandomSource

    def known_function(self, key: str) -> Function | None:
        """A function by `NAMESPACE/NAME`, if it is known here."""
        ...

    def start(
        self,
        function: Function,
        route: Route,
        payload: bytes,
        *,
        invocation_id: bytes,
        qualified: bool,
        connection: Connection,
        settlement: Settlement,
    ) -> SyncCall:
        """Run a plain call; `settlement` is told. Raises Refusal."""
        ...

    def outcome(self, call: SyncCall, settled: Reply | BaseException) -> Reply:
        """What a call came to that was settled with this. Raises Refusal or ClientLeft."""
        ...


class QuickAnswer(ABC):
    """In place of a future: whoever settles a call answers its client with that. `call` is set once it waits."""

    __slots__ = ("_calls", "_connection", "_settled", "call")

    def __init__(self, calls: PlainCalls, connection: ClientConnection) -> None:
        self._calls = calls
        self._connection = connection
        self._settled = False
        self.call: SyncCall | None = None

    @abstractmethod
    def answer(self, reply: Reply, invocation_id: bytes) -> Answer:
        """What the client gets when the call was answered."""

    @abstractmethod
    def refusal(self, refusal: Refusal, invocation_id: bytes) -> Answer:
        """What the client gets when it was not."""

    def done(self) -> bool:
        """Whether the call is settled."""
        return self._settled

    def set_result(self, result: Reply, /) -> None:
        """The call was answered."""
        self._settle(result)

    def set_exception(self, exception: BaseException, /) -> None:
        """The call was not."""
        self._settle(exception)

    def _settle(self, settled: Reply | BaseException) -> None:
        call = self.call
        assert call is not None
        # They hold each other: without this only the collector of cycles would free them.
        self.call = None
        self._settled = True
        try:
            answer = self.answer(self._calls.outcome(call, settled), call.invocation_id)
        except Refusal as refusal:
            answer = self.refusal(refusal, call.invocation_id)
        except ClientLeft:
            return
        except Exception:  # noqa: BLE001 - a mistake of ours, which the other calls of this turn have no part in
            self._connection.fail()
            return
        self._connection.answer(*answer)
