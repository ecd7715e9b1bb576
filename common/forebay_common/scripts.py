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


CANCEL = Script("cancel", "41046e9005575fa5d58e7cf2d2026d8d5614a541")
EXTEND = Script("extend", "f8f7db49290f4ce1d24a87b75096f95b1206e8f9")
FINISH_ASYNC = Script("finish_async", "f3ca5f6aa7ede9a02b4ee62a41f0ff0ad0091329")
LEAVE = Script("leave", "2594f43fbb9c37d005a20f5d6219a3cf06a0320c")
OBSERVE = Script("observe", "57645c86055f13a648d3bcfeb8f180101cdf43a6")
PROMOTE = Script("promote", "71040144d210b63c6f644882d3279e2df26ee9eb")
PUBLISH_CREDENTIAL = Script("publish_credential", "a8f8d49caf870645bd00a227897a91a56d770642")
PUBLISH_FUNCTION = Script("publish_function", "cbbe7ca31e717cbab1700f39e1b06426e130fc9f")
RECLAIM_ASYNC = Script("reclaim_async", "6762d447c1469c365717a4e4f6fa5c2a3b01f9a5")
RELEASE = Script("release", "7893c5fc1de8de52f5f6d53d6be1ff292a233bde")

ALL = (
    CANCEL,
    EXTEND,
    FINISH_ASYNC,
    LEAVE,
    OBSERVE,
    PROMOTE,
    PUBLISH_CREDENTIAL,
    PUBLISH_FUNCTION,
    RECLAIM_ASYNC,
    RELEASE,
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
