"""The function table in memory: every function a call can reach, kept fresh by notification.

At each connection it subscribes first and reads everything then, so no change falls between the two. A change is
announced as `GENERATION NAMESPACE/NAME`: the next generation rereads that one entry, a gap rereads all. A call for
a name that is not there asks once, and the answer "there is none" is kept for a moment. Access keys are kept fresh
in the same way, under the same generations (`GENERATION credentials/ACCESS_KEY_ID`).
"""

import asyncio
import math
from collections.abc import Callable
from typing import Any

import hiredis

from forebay_common import limits, logs, record, scripts
from forebay_common.function_table import CREDENTIAL_CHANGED
from forebay_common.keys import RECORD_FIELD, PlatformKeys
from forebay_common.names import LATEST, id_prefix
from forebay_common.routing import RoutingEntry, VersionRoute
from forebay_common.tlv import pack_field
from forebay_gateway.admission import Sample
from forebay_gateway.counters import Counters, FunctionCounters
from forebay_gateway.credential_table import CredentialTable
from forebay_gateway.identifiers import ID_BYTES
from forebay_gateway.lambda_errors import Refusal
from forebay_gateway.redis_link import Commands, NotConnected, RedisUnavailable, ignore
from forebay_gateway.resp import bulk, head, pack

MISS_TTL_S = 0.5
MISSES_MAX = 1_024
LOOKUPS_MAX = 64
"""Names looked up in Redis at the same time; beyond it an unknown name is not found."""
RELOAD_RETRY_S = 0.5
GROUPED_FIELD = "n"
"""Of the groups' hash: how many events wait for their turn."""

_log = logs.get(__name__)


class Route:
    """One version of a function, with everything packed that its calls have in common.

    `sync_head`, `once_head` (up to its second key) and `accept_head` (an event without a group or key) end before the
    record's length; `accept_keys` are the first four keys of `accept_async`. `fields` follow the reply token in a sync
    record of a caller that used no qualifier, `qualified_fields` of one that did; the `async_…` ones follow
    `event_head` and the invocation id. `lengths` ask how many events there are, in four commands.
    """

    __slots__ = (
        "accept_head",
        "accept_keys",
        "async_fields",
        "async_key",
        "async_qualified_fields",
        "event_age_ms",
        "event_head",
        "fields",
        "lengths",
        "once_head",
        "qualified_fields",
        "revision",
        "sync_head",
        "sync_key",
        "sync_length",
        "timeout_ms",
        "version",
    )

    def __init__(
        self, entry: RoutingEntry, version: str, route: VersionRoute, keys: PlatformKeys, reply: bytes
    ) -> None:
        function = keys.function(entry.namespace, entry.name, entry.uid)
        self.version = version
        self.revision = route.revision
        self.timeout_ms = route.timeout_ms
        self.sync_key = function.sync(version).encode()
        self.sync_head = _append_head(function.sync(version))
        self.sync_length = pack("XLEN", function.sync(version))
        self.once_head = script_head(scripts.ACCEPT_ONCE, 2, 3) + bulk(self.sync_key)
        self.async_key = function.async_(version).encode()
        places = (function.async_, function.live, function.delayed, function.groups)
        self.accept_keys = b"".join([bulk(key(version)) for key in places])
        self.accept_head = script_head(scripts.ACCEPT_ASYNC, 5, 4) + self.accept_keys + bulk(self.async_key) + b"$"
        self.lengths = (
            pack("XLEN", function.async_(version)),
            pack("ZCARD", function.delayed(version)),
            pack("XLEN", function.outbox(version)),
            pack("HGET", function.groups(version), GROUPED_FIELD),
        )
        version_field = b"" if version == LATEST else pack_field(record.TAG_VERSION, version.encode())
        # An instance knows the function's own ARN; half of a small event's record would say it again.
        self.async_fields = version_field
        self.async_qualified_fields = version_field + pack_field(record.TAG_ARN, f"{entry.arn}:{version}".encode())
        self.fields = reply + self.async_fields
        self.qualified_fields = reply + self.async_qualified_fields
        self.event_age_ms = entry.async_age_ms or limits.ASYNC_AGE_MAX_S * 1000
        self.event_head = record.HEADER.pack(
            record.VERSION, record.KIND_ASYNC, entry.destinations, 0, 0, self.revision, self.event_age_ms,
            self.timeout_ms, 0, bytes(ID_BYTES),
        )[:-ID_BYTES]  # fmt: skip


class Load:
    """What this process knows of a function's queues, and when it last woke the controller for it."""

    __slots__ = ("async_sample", "async_since", "sync_sample", "sync_waiting", "trailing_wake", "wake_run", "wake_s")

    def __init__(self) -> None:
        self.sync_waiting = 0
        self.sync_sample = Sample()
        self.async_sample = Sample()
        self.async_since = 0
        self.wake_s = -math.inf
        self.wake_run = 0
        self.trailing_wake = False


class Function:
    """One function as calls use it. `load` and `counters` outlive changes of the entry, the keys do not.

    `id_prefix` is how the ids of its invocations begin.
    """

    __slots__ = ("base", "counters", "entry", "id_prefix", "key", "keys", "load", "routes", "wake")

    def __init__(self, entry: RoutingEntry, keys: PlatformKeys, reply: bytes, counters: FunctionCounters) -> None:
        self.entry = entry
        self.key = entry.key
        self.keys = keys.function(entry.namespace, entry.name, entry.uid)
        self.base = self.keys.base.encode()
        self.id_prefix = id_prefix(entry.uid)
        self.routes = {version: Route(entry, version, route, keys, reply) for version, route in entry.versions.items()}
        self.wake = pack("PUBLISH", keys.wake_channel, f"{entry.namespace}/{entry.name}/{entry.uid}")
        self.load = Load()
        self.counters = counters

    def counted(self, refusal: Refusal) -> Refusal:
        """A refusal of one of its calls, counted."""
        self.counters.outcomes[refusal.outcome] += 1
        return refusal


class FunctionTable:
    """All functions of the installation, by `NAMESPACE/NAME`.

    `reply_address` is where replies for this process go. `ready` once everything has been read; it stays so while
    Redis is away, since the table is still good enough to refuse calls properly.
    """

    def __init__(
        self,
        commands: Commands,
        keys: PlatformKeys,
        reply_address: str,
        counters: Counters,
        credentials: CredentialTable,
    ) -> None:
        self.ready = False
        self._credentials = credentials
        self._commands = commands
        self._keys = keys
        self._reply = pack_field(record.TAG_REPLY_ADDRESS, reply_address.encode())
        self._counters = counters
        self._functions: dict[str, Function] = {}
        self._generation = 0
        self._reading = False
        self._reread = False
        self._misses: dict[str, float] = {}
        self._lookups: dict[str, asyncio.Future[None]] = {}
        reads = (("GET", keys.generation), ("HGETALL", keys.functions), ("HGETALL", keys.credentials))
        self._load = (pack("MULTI"), *(pack(*read) for read in reads), pack("EXEC"))

    def get(self, key: str) -> Function | None:
        """A function by `NAMESPACE/NAME`, as far as it is known here."""
        return self._functions.get(key)

    async def find(self, key: str) -> Function | None:
        """A function by `NAMESPACE/NAME`, asked for in Redis when it is not known. Raises RedisUnavailable."""
        found = self._functions.get(key)
        if found is not None:
            return found
        loop = asyncio.get_running_loop()
        if self._misses.get(key, -math.inf) > loop.time():
            return None
        lookup = self._lookups.get(key)
        if lookup is None:
            if len(self._lookups) >= LOOKUPS_MAX:
                return None
            lookup = self._lookups[key] = loop.create_future()
            try:
                self._fetch(key, lookup)
            except NotConnected:
                del self._lookups[key]
                raise
        # Shielded: one caller that leaves must not take the answer from the others.
        await asyncio.shield(lookup)
        return self._functions.get(key)

    def reload(self) -> None:
        """Read everything again; called when the subscription has come up, and on a gap in the generations."""
        if self._reading:
            self._reread = True
            return
        try:
            self._commands.write(self._load, *(ignore,) * (len(self._load) - 1), self._on_load)
        except NotConnected:
            self._later(self.reload)
            return
        self._reading = True
        self._reread = False

    def on_message(self, _channel: bytes, data: bytes) -> None:
        """A change was announced."""
        generation_text, _, field = data.partition(b" ")
        try:
            generation, key = int(generation_text), field.decode()
        except ValueError:
            _log.warning("a function table announcement could not be read: %r", data)
            self.reload()
            return
        if self._reading:
            self._reread = True
        elif generation == self._generation + 1:
            self._generation = generation
            try:
                if key.startswith(CREDENTIAL_CHANGED):
                    self._fetch_credential(key.removeprefix(CREDENTIAL_CHANGED))
                # A namespace may have that very name, so the entry is read in any case.
                self._fetch(key, None, generation)
            except NotConnected:
                self._later(self.reload)
        elif generation > self._generation:
            self.reload()

    def _on_load(self, reply: Any) -> None:
        self._reading = False
        if not isinstance(reply, list) or any(isinstance(part, hiredis.ReplyError) for part in reply):
            _log.warning("the function table could not be read: %s", reply)
            self._later(self.reload)
            return
        generation, fields, credentials = reply
        self._generation = int(generation or 0)
        seen = set()
        for field, data in zip(fields[::2], fields[1::2], strict=True):
            seen.add(field.decode())
            self._put(field.decode(), data)
        for key in [known for known in self._functions if known not in seen]:
            self._drop(key)
        ids = [field.decode() for field in credentials[::2]]
        self._credentials.replace(dict(zip(ids, credentials[1::2], strict=True)))
        self._counters.table_generation = self._generation
        self.ready = True
        if self._reread:
            self.reload()

    def _fetch(self, key: str, lookup: asyncio.Future[None] | None, generation: int = 0) -> None:
        """Read one entry; `lookup` is settled when it is there, `generation` in effect then. Raises NotConnected."""

        def fetched(reply: Any) -> None:
            if isinstance(reply, (RedisUnavailable, hiredis.ReplyError)):
                error: Exception = reply
                if lookup is None:
                    self._later(self.reload)
                elif not lookup.done():
                    del self._lookups[key]
                    if isinstance(error, hiredis.ReplyError):
                        error = RedisUnavailable(str(error))
                    lookup.set_exception(error)
                    lookup.exception()  # its callers may have left: then nobody else takes it
                return
            if reply is None:
                self._drop(key)
                self._miss(key)
            else:
                self._put(key, reply)
            self._counters.table_generation = max(self._counters.table_generation, generation)
            if lookup is not None:
                del self._lookups[key]
                lookup.set_result(None)

        self._commands.write((pack("HGET", self._keys.functions, key),), fetched)

    def _fetch_credential(self, access_key_id: str) -> None:
        """Read one access key. Raises NotConnected."""

        def fetched(reply: Any) -> None:
            if isinstance(reply, bytes):
                self._credentials.put(access_key_id, reply)
            elif reply is None:
                self._credentials.drop(access_key_id)
            else:
                self._later(self.reload)

        self._commands.write((pack("HGET", self._keys.credentials, access_key_id),), fetched)

    def _miss(self, key: str) -> None:
        if len(self._misses) >= MISSES_MAX:
            self._misses.clear()
        self._misses[key] = asyncio.get_running_loop().time() + MISS_TTL_S

    def _put(self, key: str, data: bytes) -> None:
        try:
            entry = RoutingEntry.from_json(data)
        except (ValueError, KeyError, TypeError):
            _log.exception("a function table entry could not be read", extra={"function": key})
            return
        self._misses.pop(key, None)
        function = Function(entry, self._keys, self._reply, self._counters.function(key))
        before = self._functions.get(key)
        if before is not None and before.entry.uid == entry.uid:
            function.load = before.load
        self._functions[key] = function

    def _drop(self, key: str) -> None:
        if self._functions.pop(key, None) is not None:
            self._counters.functions.pop(key, None)

    def _later(self, action: Callable[[], None]) -> None:
        asyncio.get_running_loop().call_later(RELOAD_RETRY_S, action)


def script_head(script: scripts.Script, keys: int, arguments: int) -> bytes:
    """A script's call up to its first key."""
    return head(3 + keys + arguments) + bulk("EVALSHA") + bulk(script.sha) + bulk(keys)


def _append_head(key: str) -> bytes:
    """`XADD key NOMKSTREAM * r $`: what follows is the record's length, a line end, the record and a line end."""
    return head(6) + bulk("XADD") + bulk(key) + bulk("NOMKSTREAM") + bulk("*") + bulk(RECORD_FIELD) + b"$"
