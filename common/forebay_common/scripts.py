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


ACCEPT_ASYNC = Script("accept_async", "7d674a478df373f19c11cee36be328f578a8b8f1")
ACCEPT_ONCE = Script("accept_once", "00499eafafec5634792ba4700644fa080f413a59")
CANCEL = Script("cancel", "ce3ac9083daa85e396d00fadba58a171f5ead3a1")
CANCEL_EVENT = Script("cancel_event", "d400eef34ab820e31ba7c4cc8c51f907e183783b")
EXTEND = Script("extend", "f8f7db49290f4ce1d24a87b75096f95b1206e8f9")
FIND_EVENT = Script("find_event", "cbfa9461b32ce86de1992b43794f3071b44033f2")
FINISH_ASYNC = Script("finish_async", "b64b9c6ccbac6abff6d0097f94ec533f0a982efa")
LEAVE = Script("leave", "2594f43fbb9c37d005a20f5d6219a3cf06a0320c")
OBSERVE = Script("observe", "929137db2dfcc0ee92092450289ac3ff8eef14d5")
OUTBOX_DEAD = Script("outbox_dead", "a8bc19c870a260baf9bbf10e1f97168a170dd2e1")
PROMOTE = Script("promote", "ebecb72c100894261a0cf55dd8f8143ef88300a7")
PUBLISH_CREDENTIAL = Script("publish_credential", "a8f8d49caf870645bd00a227897a91a56d770642")
PUBLISH_FUNCTION = Script("publish_function", "cbbe7ca31e717cbab1700f39e1b06426e130fc9f")
RECLAIM_ASYNC = Script("reclaim_async", "e178c1f0295459eb154f73ab6ee8f4042b8d6c0c")
REDRIVE = Script("redrive", "67eff69af7b3c5e7fa46b25ab54e78397d767572")
RELEASE = Script("release", "b1225e27b15982e377ca0aaad8e8b87dbefc0515")
TRIM_ENDED = Script("trim_ended", "fc26ffa19f202646a46291e08d0eca241ba5714a")

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
    """Make every script known to Redis. Raises RuntimeError when a file and its hash here do not belong together."""
    async with redis.pipeline(transaction=False) as pipe:
        for script in ALL:
            pipe.script_load(source(script))
        shas = await pipe.execute()
    for script, sha in zip(ALL, shas, strict=True):
        found = sha.decode() if isinstance(sha, bytes) else sha
        if found != script.sha:
            raise RuntimeError(f"lua/{script.name}.lua is not the script its hash was taken from: {found}")
