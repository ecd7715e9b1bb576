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
ADD_TO_STREAM = Script("add_to_stream", "b9dd24ca1b43cc28ad5c86e26eae8b9f80df37e5")
CANCEL = Script("cancel", "ce3ac9083daa85e396d00fadba58a171f5ead3a1")
CANCEL_EVENT = Script("cancel_event", "acf5b08db194dbfa98aa817d2b93093dfaf957dc")
EXTEND = Script("extend", "f8f7db49290f4ce1d24a87b75096f95b1206e8f9")
FIND_EVENT = Script("find_event", "6bdedec0904e45526c4245dca586a99023585b36")
FINISH_ASYNC = Script("finish_async", "32902fc876179880e7523cd6ac7bb3a20a20f218")
LEAVE = Script("leave", "2594f43fbb9c37d005a20f5d6219a3cf06a0320c")
OBSERVE = Script("observe", "18fa06a8a34b20ed190fc289212489bc82c5a21f")
OUTBOX_DEAD = Script("outbox_dead", "4ca2af252c7ed9623f8c3c174b850461e950f496")
PROMOTE = Script("promote", "6c981fcaadee72904671520e79701ae339bbf04f")
PUBLISH_CREDENTIAL = Script("publish_credential", "a8f8d49caf870645bd00a227897a91a56d770642")
PUBLISH_FUNCTION = Script("publish_function", "cbbe7ca31e717cbab1700f39e1b06426e130fc9f")
RECLAIM_ASYNC = Script("reclaim_async", "bfe5e4d5dbd7b598e5ef746e520e6b8566fc5837")
REDRIVE = Script("redrive", "2a5708035b3fbc41dfb5c76143dcc30046c7e7e6")
RELEASE = Script("release", "f2afab6da58a6ed05559bd2422afc29cd0b4d271")
TRIM_ENDED = Script("trim_ended", "88da28e353df0fe3911b20274bac9057303f6fca")

ALL = (
    ACCEPT_ASYNC,
    ACCEPT_ONCE,
    ADD_TO_STREAM,
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
