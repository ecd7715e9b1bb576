"""Ways to break the product on purpose: patches of a copy of the source tree, each of which the suite must catch."""

import re
import shutil
import subprocess
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path

from .plan import INSTANCES

ROOT = Path(__file__).parents[2]
COMPONENTS = ("common", "gateway", "controller", "runtime-image", "cli", "examples")
_SCRIPTS = Path("common/forebay_common/scripts.py")
_HASHES = """
import hashlib, json
from forebay_common import scripts
print(json.dumps({s.sha: hashlib.sha1(scripts.source(s).encode()).hexdigest() for s in scripts.ALL}))
"""


@dataclass(frozen=True, slots=True)
class Change:
    """A text in a file, which must stand there exactly once, and what takes its place."""

    path: str
    old: str
    new: str


@dataclass(frozen=True, slots=True)
class Breakage:
    """One mistake. `by_model`: the protocol's model catches it, since no fault on one machine brings it to light."""

    name: str
    changes: tuple[Change, ...]
    families: tuple[str, ...] = (INSTANCES,)
    by_model: bool = False


BREAKAGES = (
    Breakage(
        "acknowledge before the reply",
        (
            Change(
                "runtime-image/forebay_runtime/queue_reader.py",
                "        self._leases.add(call)\n",
                "        self._leases.add(call)\n"
                "        if kind == SYNC:\n            self._owner.forget(kind, entry_id)\n",
            ),
        ),
    ),
    Breakage(
        "no owner check",
        (
            Change(
                "common/forebay_common/lua/includes/lease.lua",
                "pending(stream, id, id, 1, consumer)",
                "pending(stream, id, id, 1)",
            ),
        ),
        by_model=True,
    ),
    Breakage(
        "a lost retry",
        (
            Change(
                "common/forebay_common/lua/includes/conclude.lua",
                "    delay(KEYS[2], KEYS[4], record, due)\n",
                "",
            ),
        ),
    ),
    Breakage(
        "a key without TTL",
        (
            Change(
                "runtime-image/forebay_runtime/heartbeat.py",
                '            ("PEXPIRE", self._key, HEARTBEAT_TTL_S * 1000),\n',
                "",
            ),
        ),
    ),
    Breakage(
        "a sync call given twice",
        (
            Change(
                "common/forebay_common/recovery.py",
                "        done.sync_failed += await _fail(redis, platform, queue, leases, _lost)\n    arguments",
                "        entry_ids = [lease.entry_id for lease in leases]\n"
                "        await run(redis, scripts.RELEASE, (queue.sync, queue.sync), (instance_id, *entry_ids))\n"
                "    arguments",
            ),
        ),
    ),
    Breakage(
        "a group's turn for everybody",
        (
            Change(
                "common/forebay_common/lua/includes/turn.lua",
                "redis.call('HSETNX', groups, group, '1') == 1",
                "redis.call('HSET', groups, group, '1')",
            ),
        ),
    ),
    Breakage(
        "a forgotten idempotency key",
        (
            Change(
                "common/forebay_common/lua/accept_async.lua",
                "  redis.call('SET', once, ARGV[5] .. id .. 'a', 'EX', ARGV[6])\n",
                "",
            ),
        ),
    ),
    Breakage(
        "an end that is not told",
        (
            Change(
                "common/forebay_common/lua/includes/conclude.lua",
                "    redis.call('XADD', KEYS[6], '*',\n"
                "      'r', moved_record(record, id, starts), 's', status, 'reason', reason, 'f', frame)\n",
                "",
            ),
        ),
    ),
)


class BrokenCopy:
    """The source tree with changes, in a folder of its own; `python` is an interpreter that imports it."""

    def __init__(self, folder: Path, changes: tuple[Change, ...]) -> None:
        self._folder = folder
        for name in COMPONENTS:
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        self.python = self._make_interpreter()
        for change in changes:
            _apply(folder / change.path, change)
        if any(change.path.endswith(".lua") for change in changes):
            self._hash_scripts()

    def _make_interpreter(self) -> str:
        venv = self._folder / "venv"
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True, capture_output=True)
        [packages] = venv.glob("lib/python*/site-packages")
        # Ours first; a folder named here is searched, but what its own .pth files say is not.
        paths = [*(str(self._folder / name) for name in COMPONENTS), sysconfig.get_path("purelib")]
        (packages / "broken.pth").write_text("".join(f"{path}\n" for path in paths))
        return str(venv / "bin" / "python")

    def _hash_scripts(self) -> None:
        """Scripts are called by their hash, which stands in the source."""
        found = subprocess.run([self.python, "-c", _HASHES], check=True, capture_output=True, text=True).stdout
        path = self._folder / _SCRIPTS
        text = path.read_text()
        for old, new in re.findall(r'"([0-9a-f]{40})": "([0-9a-f]{40})"', found):
            text = text.replace(old, new)
        path.write_text(text)


def _apply(path: Path, change: Change) -> None:
    text = path.read_text()
    assert text.count(change.old) == 1, f"{change.path} has changed: the patch of it in {__file__} must follow"
    path.write_text(text.replace(change.old, change.new))
