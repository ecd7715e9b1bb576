"""How an instance's connections find their servers, where the credentials name no single one."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from forebay_common.keys import FunctionKeys
    from forebay_runtime.console import Console
    from forebay_runtime.loop import Loop
    from forebay_runtime.redis_cluster import Slots
    from forebay_runtime.redis_wire import Place
    from forebay_runtime.reply_pushes import ReplyPushes
    from forebay_runtime.settings import RedisCredentials


class Places:
    """Of one instance; the connections to a Cluster share what they learn of where slots are."""

    def __init__(self, loop: Loop, credentials: RedisCredentials, keys: FunctionKeys) -> None:
        self._loop = loop
        self._credentials = credentials
        self._base = keys.base
        self._slots: Slots | None = None
        # What serves many servers is imported where there are many: it would be part of every cold start.
        if credentials.nodes and not credentials.sentinel_master:
            from forebay_runtime.redis_cluster import Slots  # noqa: PLC0415

            self._slots = Slots(loop, credentials)

    def of_function(self) -> Place | None:
        """For a connection on which the function's own keys are used; None: where the credentials say."""
        if self._slots is not None:
            return self._slots.place_of_key(self._base)
        if self._credentials.sentinel_master:
            from forebay_runtime.redis_sentinels import PrimaryPlace  # noqa: PLC0415

            return PrimaryPlace(self._loop, self._credentials)
        return None

    def pushes(self, prefix: str, console: Console) -> ReplyPushes | None:
        """What pushes replies where their lists lie; None when they lie where the function's keys are."""
        if self._slots is None:
            return None
        from forebay_runtime.reply_pushes import ReplyPushes  # noqa: PLC0415

        return ReplyPushes(self._loop, self._credentials, console, self._slots, prefix)
