"""Renewing the leases of what is held for long: with each heartbeat, `lua/extend.lua`."""

from __future__ import annotations

from hiredis import ReplyError

from forebay_common import scripts
from forebay_common.limits import HEARTBEAT_S
from forebay_runtime.leases import ASYNC, SYNC
from forebay_runtime.redis_wire import command

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from forebay_common.keys import FunctionKeys
    from forebay_runtime.console import Console
    from forebay_runtime.leases import Call, Leases
    from forebay_runtime.redis_wire import Link
    from forebay_runtime.settings import Settings


class Renewal:
    """`on_lost` is told of each call that somebody else has taken over."""

    def __init__(
        self, settings: Settings, keys: FunctionKeys, leases: Leases, console: Console, on_lost: Callable[[Call], None]
    ) -> None:
        self._streams = (keys.sync(settings.version), keys.async_(settings.version))
        self._consumer = settings.instance_id
        self._leases = leases
        self._console = console
        self._on_lost = on_lost

    def renew(self, link: Link, now: float) -> None:
        """Renew what was leased some time ago; what was just leased can wait for the next time."""
        for kind in (SYNC, ASYNC):
            entry_ids = self._leases.older_than(kind, now - HEARTBEAT_S / 2)
            if entry_ids:
                arguments = (1, self._streams[kind], self._consumer, *entry_ids)
                data = command(("EVALSHA", scripts.EXTEND.sha, *arguments))
                link.send(data, 1, self._on_reply(kind, entry_ids))

    def _on_reply(self, kind: int, entry_ids: list[bytes]) -> Callable[[list[Any] | None], None]:
        def on_reply(replies: list[Any] | None) -> None:
            if replies is None:
                return
            if isinstance(replies[0], ReplyError):
                self._console.warning(f"leases were not extended: {replies[0]}")
                return
            for call in self._leases.lose(kind, entry_ids, replies[0]):
                self._console.warning("the lease was lost while the call was held", call.request_id)
                self._on_lost(call)

        return on_reply
