"""The queue's transitions in Lua (`lua/*.lua`), by name, with the SHA-1 each is called by.

The hashes stand here as text, since a runtime that starts must not read and hash files (its import is the cold
start); `load_all` and a test hold them against the files. A runtime may call EVALSHA only: the controller loads
the scripts at its start and whenever Redis has been restarted, and a runtime that meets NOSCRIPT tries again.
"""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from redis.asyncio import Redis


class Script:
    """One script: `name` of its file, `sha` to call it by."""

    __slots__ = ("name", "sha")

    def __init__(self, name: str, sha: str) -> None:
        self.name = name
        self.sha = sha


ACCEPT_ASYNC = Script("accept_async", "35cb8efdc5043e24b3cf040b7c0247e6cbc8a68b")
ACCEPT_ONCE = Script("accept_once", "9c15d3e481441636bf87c5fade2e56a0e871b3d1")
ADD_TO_STREAM = Script("add_to_stream", "b9dd24ca1b43cc28ad5c86e26eae8b9f80df37e5")
CANCEL = Script("cancel", "b36897868f18c0ccacea765b7ac5b620568abc6b")
CANCEL_EVENT = Script("cancel_event", "8e4af68adf40b96c6d3692b39fc101a9f966dce3")
DISCARD = Script("discard", "1a1102e0959d4fa331ced82fce05d43fc0641e8c")
EXTEND = Script("extend", "f8f7db49290f4ce1d24a87b75096f95b1206e8f9")
FIND_EVENT = Script("find_event", "6bdedec0904e45526c4245dca586a99023585b36")
FINISH_ASYNC = Script("finish_async", "df1abf54c9ba7e1a3cd84d61b4fc1c87c37ac638")
FINISH_DONE = Script("finish_done", "45f104830efd67d97f27eb9e13dae2df13c1092e")
LEAVE = Script("leave", "2594f43fbb9c37d005a20f5d6219a3cf06a0320c")
OBSERVE = Script("observe", "18fa06a8a34b20ed190fc289212489bc82c5a21f")
OUTBOX_DEAD = Script("outbox_dead", "4ca2af252c7ed9623f8c3c174b850461e950f496")
PROMOTE = Script("promote", "b7f83320f7db5c3c6bfba89e278dd73a9c6e5d04")
PUBLISH_CREDENTIAL = Script("publish_credential", "a8f8d49caf870645bd00a227897a91a56d770642")
PUBLISH_FUNCTION = Script("publish_function", "cbbe7ca31e717cbab1700f39e1b06426e130fc9f")
RECLAIM_ASYNC = Script("reclaim_async", "db216579388b2a573adb410a1bf81e316bde0322")
REDRIVE = Script("redrive", "fe6d510d283b98b0530536b63fca986a937de206")
RELEASE = Script("release", "f2afab6da58a6ed05559bd2422afc29cd0b4d271")
SETTLE_ONCE = Script("settle_once", "b53998d35a1f107c3dd880e6f5a4df8447024f7c")
TRIM_ENDED = Script("trim_ended", "ff66ae2964a93b737b79b686e933a28cafef25e2")

ALL = (
    ACCEPT_ASYNC,
    ACCEPT_ONCE,
    ADD_TO_STREAM,
    CANCEL,
    CANCEL_EVENT,
    DISCARD,
    EXTEND,
    FIND_EVENT,
    FINISH_ASYNC,
    FINISH_DONE,
    LEAVE,
    OBSERVE,
    OUTBOX_DEAD,
    PROMOTE,
    PUBLISH_CREDENTIAL,
    PUBLISH_FUNCTION,
    RECLAIM_ASYNC,
    REDRIVE,
    RELEASE,
    SETTLE_ONCE,
    TRIM_ENDED,
)

_INCLUDE = "--- include "


def source(script: Script) -> str:
    """A script's whole text, its `--- include NAME` lines replaced by `lua/includes/NAME.lua`."""
    from importlib.resources import files  # noqa: PLC0415 - only the controller reads the files

    folder = files("forebay_common").joinpath("lua")
    lines = []
    for line in folder.joinpath(f"{script.name}.lua").read_text("utf-8").splitlines():
        if line.startswith(_INCLUDE):
            line = folder.joinpath("includes", f"{line.removeprefix(_INCLUDE)}.lua").read_text("utf-8").rstrip()  # noqa: PLW2901
        lines.append(line)
    return "\n".join(lines) + "\n"


async def load_all(redis: "Redis") -> None:
    """Make every script known to Redis: to all nodes of a Cluster, since a replica may be the next primary.

    Raises RuntimeError when a file and its hash here do not belong together, and redis.exceptions.RedisError.
    """
    from forebay_common.redis_cluster import servers_of  # noqa: PLC0415 - a runtime has no redis-py

    for server in await servers_of(redis, replicas=True):
        await _load_all(server)


async def _load_all(redis: "Redis") -> None:
    async with redis.pipeline(transaction=False) as pipe:
        for script in ALL:
            pipe.script_load(source(script))
        shas = await pipe.execute()
    for script, sha in zip(ALL, shas, strict=True):
        found = sha.decode() if isinstance(sha, bytes) else sha
        if found != script.sha:
            raise RuntimeError(f"lua/{script.name}.lua is not the script its hash was taken from: {found}")
