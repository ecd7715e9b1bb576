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


ACCEPT_ASYNC = Script("accept_async", "c16368f2ad7902947262d84ff55d7b3b21439a50")
ACCEPT_ONCE = Script("accept_once", "00499eafafec5634792ba4700644fa080f413a59")
CANCEL = Script("cancel", "ce3ac9083daa85e396d00fadba58a171f5ead3a1")
CANCEL_EVENT = Script("cancel_event", "888b409d45163e505c644d26fa4e18c5523ea7ba")
EXTEND = Script("extend", "f8f7db49290f4ce1d24a87b75096f95b1206e8f9")
FIND_EVENT = Script("find_event", "cbfa9461b32ce86de1992b43794f3071b44033f2")
FINISH_ASYNC = Script("finish_async", "ec5561e7523d43e6d090aea4c08bbc9d4e25622d")
LEAVE = Script("leave", "2594f43fbb9c37d005a20f5d6219a3cf06a0320c")
OBSERVE = Script("observe", "18fa06a8a34b20ed190fc289212489bc82c5a21f")
OUTBOX_DEAD = Script("outbox_dead", "4ca2af252c7ed9623f8c3c174b850461e950f496")
PROMOTE = Script("promote", "6c981fcaadee72904671520e79701ae339bbf04f")
PUBLISH_CREDENTIAL = Script("publish_credential", "a8f8d49caf870645bd00a227897a91a56d770642")
PUBLISH_FUNCTION = Script("publish_function", "cbbe7ca31e717cbab1700f39e1b06426e130fc9f")
RECLAIM_ASYNC = Script("reclaim_async", "71e783557deef4eb59e030b5b3abb64d2c8fc368")
REDRIVE = Script("redrive", "a1c70e5b5c99c67949c35a55c527725a0ff45e83")
RELEASE = Script("release", "f2afab6da58a6ed05559bd2422afc29cd0b4d271")
TRIM_ENDED = Script("trim_ended", "78bd55fd4969342403ee7efb6c06375282399d31")

ALL = (
    ACCEPT_ASYNC,
    ACCEPT_ONCE,
    CANCEL,
    CANCEL_EVENT,
    EXTEND,
    FIND_EVENT,
    FINISH_ASYNC,
    LEAVE,
    OBSERVE,
    OUTBOX_DEAD,
    PROMOTE,
    PUBLISH_CREDENTIAL,
    PUBLISH_FUNCTION,
    RECLAIM_ASYNC,
    REDRIVE,
    RELEASE,
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
