"""Functions' Redis users, on every node of Redis.

Redis keeps users in memory: they are in no append-only file, reach no replica by themselves, and are gone after a
restart. So each is set on the server and on all its replicas (or all nodes of a cluster), and all of them again on a
node that appears, or whose run id is another one. Instances take the refusals in between as passing faults.
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping

from redis.asyncio import Redis
from redis.exceptions import RedisError

from forebay_common import logs
from forebay_common.redis_client import Part, checked, command, connect, pipeline
from forebay_common.redis_settings import Address, RedisSettings
from forebay_controller.background import end_tasks
from forebay_controller.cluster.access import redis_user, uid_of_redis_user
from forebay_controller.cluster.redis_nodes import nodes_of, replay_problem, run_id

LOOK_EVERY_S = 1.0
"""Nothing tells that a server was restarted, so each is asked for its run id this often; one small command."""
BATCH = 100
NODES_MAX = 64

_log = logs.get(__name__)


class _Known:
    """A node with the client to it; `users` are those that it is known to have, () when that is not known."""

    def __init__(self, client: Redis) -> None:
        self.client = client
        self.run_id = ""
        self.users: set[str] = set()


class RedisUsers:
    """Sets users by function uid; `rules` of a user are the arguments of ACL SETUSER after its name.

    Functions work on the server itself, or on a Cluster's primaries: those must have a user before it counts as set.
    """

    def __init__(self, settings: RedisSettings, prefix: str, *, look_every_s: float = LOOK_EVERY_S) -> None:
        self._settings = settings
        self._prefix = prefix
        self._look_every_s = look_every_s
        self._redis = connect(settings)
        self._main = None if settings.is_cluster else _Known(self._redis)
        self._primaries: list[_Known] = []
        self._nodes: dict[Address, _Known] = {}
        self._wanted: dict[str, tuple[Part, ...]] = {}
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self, wanted: Mapping[str, tuple[Part, ...]]) -> None:
        """Set these users, take away those of functions that are gone, and keep watch.

        Raises redis.exceptions.RedisError when the server itself could not be told; replicas may come later.
        """
        self._wanted = dict(wanted)
        if self._main is None:
            await self._find_nodes()
        await asyncio.gather(*map(self._refresh, self._needed))
        loops = {"redis users": self._look_at_server, "redis users of other nodes": self._look_at_nodes}
        self._tasks = [asyncio.create_task(self._run(look), name=name) for name, look in loops.items()]

    async def close(self) -> None:
        """Stop watching; users stay."""
        await end_tasks(self._tasks)
        for client in (self._redis, *(known.client for known in self._nodes.values())):
            await client.aclose()

    async def put(self, uid: str, rules: tuple[Part, ...]) -> None:
        """Set a function's user on every node. Returns once the server itself, or each primary, has it.

        Raises redis.exceptions.RedisError.
        """
        if self._wanted.get(uid) == rules and all(uid in known.users for known in self._needed):
            return
        self._wanted[uid] = rules
        for known in self._needed:
            await self._set(known, [uid])
        for known in self._others:
            await self._set_later(known, [uid])

    async def remove(self, uid: str) -> None:
        """Delete a function's user on every node; its connections end. Raises redis.exceptions.RedisError."""
        self._wanted.pop(uid, None)
        for known in self._needed:
            await self._delete(known, [uid])
        for known in self._others:
            try:
                await self._delete(known, [uid])
            except RedisError as error:
                known.run_id = ""  # looked at as a new one with the next round
                _log.warning("a node of Redis did not delete a function's user: %s", error)

    @property
    def _needed(self) -> list[_Known]:
        return [*self._primaries] if self._main is None else [self._main]

    @property
    def _others(self) -> list[_Known]:
        return [known for known in self._nodes.values() if known not in self._primaries]

    async def _run(self, look: Callable[[], Awaitable[None]]) -> None:
        while True:
            try:
                await look()
            except RedisError as error:
                _log.warning("Redis's users could not be looked at: %s", error)
            await asyncio.sleep(self._look_every_s)

    async def _look_at_server(self) -> None:
        if self._main is not None:
            await self._refresh(self._main)

    async def _look_at_nodes(self) -> None:
        """Beside the server's own looks, since a replica that does not answer takes a while."""
        await self._find_nodes()
        await asyncio.gather(*(self._refresh_node(node, known) for node, known in self._nodes.items()))

    async def _find_nodes(self) -> None:
        primaries, replicas = await nodes_of(self._redis)
        found = set([*primaries, *replicas][:NODES_MAX])
        for node in self._nodes.keys() - found:
            # Forgotten when that is done: whoever ends this in between still finds what to close.
            await self._nodes[node].client.aclose()
            del self._nodes[node]
        for node in found - self._nodes.keys():
            self._nodes[node] = _Known(connect(self._settings.at(node)))
        self._primaries = [self._nodes[node] for node in primaries if node in self._nodes]

    async def _refresh_node(self, node: Address, known: _Known) -> None:
        try:
            await self._refresh(known)
        except RedisError as error:
            _log.warning("the users of Redis's node %s could not be set: %s", node, error)

    async def _refresh(self, known: _Known) -> None:
        """Set every user on a node that is new or was restarted, else those that it lacks. Raises RedisError."""
        current = await run_id(known.client)
        if current == known.run_id:
            missing = self._wanted.keys() - known.users
            await self._set(known, missing)
            return
        problem = await replay_problem(known.client, self._prefix)
        if problem:
            _log.error("%s", problem)
        known.users.clear()
        await self._delete(known, await self._left_over(known))
        await self._set(known, [*self._wanted])
        if known.run_id:
            _log.info("a node of Redis was restarted: %d functions' users are set again", len(known.users))
        known.run_id = current

    async def _left_over(self, known: _Known) -> list[str]:
        """Functions' users on a node that no function is known for."""
        names = [name.decode() for name in await command(known.client, "ACL", "USERS")]
        uids = [uid_of_redis_user(self._prefix, name) for name in names]
        return [uid for uid in uids if uid and uid not in self._wanted]

    async def _set_later(self, known: _Known, uids: Iterable[str]) -> None:
        """The next look tries again what fails here."""
        try:
            await self._set(known, uids)
        except RedisError as error:
            _log.warning("a node of Redis did not take a function's user: %s", error)

    async def _set(self, known: _Known, uids: Iterable[str]) -> None:
        todo = [(uid, self._wanted[uid]) for uid in uids if uid in self._wanted]
        for at in range(0, len(todo), BATCH):
            batch = todo[at : at + BATCH]
            checked(
                await pipeline(
                    known.client,
                    [("ACL", "SETUSER", redis_user(self._prefix, uid), *rules) for uid, rules in batch],
                )
            )
            known.users.update(uid for uid, _ in batch)
            # Those whose function was deleted meanwhile.
            await self._delete(known, [uid for uid, _ in batch if uid not in self._wanted])

    async def _delete(self, known: _Known, uids: Collection[str]) -> None:
        if uids:
            await command(known.client, "ACL", "DELUSER", *(redis_user(self._prefix, uid) for uid in uids))
            known.users.difference_update(uids)
