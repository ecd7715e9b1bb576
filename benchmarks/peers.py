"""`python -m benchmarks peers [--json FILE]`: the same echo through what one would pick instead on one machine.

Each peer has the processes its own guide starts, on the stage's Valkey, and a client in one process that queues a task
and waits for its result; Forebay, naive and hello are called by HTTP. Peers are installed from pinned versions into
folders of their own under the user's cache, each by itself, since they ask for versions of the same packages that
differ. One that cannot be installed or does not answer stands in the table with that.
"""

import argparse
import contextlib
import hashlib
import json
import os
import signal
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.cases import ECHO_PATH
from benchmarks.figures import rotated_rounds, spread
from benchmarks.stage import Stage, load, open_stage

CALLERS = (16, 64)
ROUNDS = 3
ROUND_S = 2
INSTALL_TIMEOUT_S = 300
_ROOT = Path(__file__).resolve().parents[1]
_ENDED = "ended without figures"

Measure = Callable[[], dict[str, float] | None]
"""One round's figures in the form of `wrk.lua`, None when the contender failed."""
MeasurePeer = Callable[[int, float], dict[str, float]]
"""The same of a peer for so many callers and seconds. Raises RuntimeError when it fails."""


@dataclass(frozen=True, slots=True)
class Peer:
    """One peer: the module of its tasks, and its workers' command lines after the interpreter."""

    name: str
    title: str
    workers: tuple[tuple[str, ...], ...]
    stop: signal.Signals = signal.SIGTERM

    @property
    def module(self) -> str:
        """Where its tasks are, under `benchmarks.peer_tasks`."""
        return f"{self.name}_tasks"


_TASKS = "benchmarks.peer_tasks"
_RQ_WORKER = ("-m", "rq.cli", "worker", "--url", "unix://{socket}")
PEERS = (
    Peer(
        "celery", "Celery, 2 processes", (("-m", "celery", "-A", f"{_TASKS}.celery_tasks", "worker", "-c", "2"),)
    ),
    Peer("rq", "RQ, 2 workers", (_RQ_WORKER, _RQ_WORKER)),
    Peer("arq", "arq, 1 worker", (("-m", "arq", f"{_TASKS}.arq_tasks.WorkerSettings"),)),
    Peer("saq", "SAQ, 1 worker", (("-m", "saq", f"{_TASKS}.saq_tasks.settings"),)),
    Peer(
        "huey",
        "Huey, 2 processes",
        (("-m", "huey.bin.huey_consumer", f"{_TASKS}.huey_tasks.huey", "-k", "process", "-w", "2"),),
        signal.SIGINT,
    ),
    Peer(
        "dramatiq", "Dramatiq, 2 processes of 8", (("-m", "dramatiq", f"{_TASKS}.dramatiq_tasks", "-p", "2"),)
    ),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Row:
    """A contender at so many callers: requests a second over hello's, medians; `spread` is of that ratio.

    `note` says why there are no figures.
    """

    title: str
    callers: int
    ratio: float = 0.0
    spread: float = 0.0
    p50_ms: float = 0.0
    p99_ms: float = 0.0
    note: str = ""


class NotInstalled(Exception):  # noqa: N818 - said in the table
    """A peer cannot be installed here; the message says why."""


def environment_of(peer: Peer) -> Path:
    """A peer's own interpreter, installed at the first use of its pins. Raises NotInstalled."""
    pins = _ROOT / "requirements" / "peers" / f"{peer.name}.txt"
    digest = hashlib.sha256(pins.read_bytes() + sys.version.encode()).hexdigest()[:12]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = cache / "forebay-benchmarks" / f"{peer.name}-{digest}"
    python = folder / "bin" / "python"
    done = folder / "installed"
    if done.exists():
        return python
    print(f"installing {peer.name} into {folder} …", file=sys.stderr)
    options = ("--quiet", "--disable-pip-version-check", "--require-hashes", "-r", str(pins))
    for command in (
        (sys.executable, "-m", "venv", "--clear", str(folder)),
        (str(python), "-m", "pip", "install", *options),
    ):
        try:
            subprocess.run(command, capture_output=True, check=True, timeout=INSTALL_TIMEOUT_S)
        except subprocess.CalledProcessError as error:
            raise NotInstalled(_last_line(error.stderr) or f"exit code {error.returncode}") from None
        except subprocess.TimeoutExpired:
            raise NotInstalled(f"took more than {INSTALL_TIMEOUT_S} s") from None
    done.touch()
    return python


def _last_line(output: bytes) -> str:
    lines = output.decode(errors="replace").strip().splitlines()
    return lines[-1] if lines else ""


@contextlib.contextmanager
def started(stage: Stage, peer: Peer, python: Path) -> Iterator[MeasurePeer]:
    """A peer with its workers; gives what measures it with so many callers for so many seconds.

    That raises RuntimeError when the client fails.
    """
    environment = {**os.environ, "PEER_SOCKET": stage.socket, "PYTHONPATH": str(_ROOT)}
    trees = [
        stage.spawn(str(python), *(word.format(socket=stage.socket) for word in words), environment=environment)
        for words in peer.workers
    ]

    def measure(callers: int, seconds: float) -> dict[str, float]:
        command = [str(python), "-m", f"{_TASKS}.driver", peer.module, str(callers), str(seconds)]
        try:
            answer = subprocess.run(command, capture_output=True, check=False, timeout=120, env=environment)
        except subprocess.TimeoutExpired:
            raise RuntimeError("its client did not end") from None
        if answer.returncode:
            raise RuntimeError(_last_line(answer.stderr) or _ENDED)
        figures: dict[str, float] = json.loads(answer.stdout.splitlines()[-1])
        return figures

    try:
        yield measure
    finally:
        for tree in trees:
            tree.stop(peer.stop)


def started_peers(stage: Stage, stack: contextlib.ExitStack) -> tuple[dict[str, MeasurePeer], list[Row]]:
    """What measures each peer, by title, and a row for each that cannot be; they end with the stack."""
    ready: dict[str, MeasurePeer] = {}
    rows = []
    for peer in PEERS:
        try:
            python = environment_of(peer)
            measure = stack.enter_context(started(stage, peer, python))
            measure(1, 0.5)
        except NotInstalled as error:
            rows.append(Row(peer.title, 0, note=f"does not install: {error}"))
        except RuntimeError as error:
            rows.append(Row(peer.title, 0, note=f"does not answer: {error}"))
        else:
            ready[peer.title] = measure
    return ready, rows


def measure_peers(stage: Stage) -> list[Row]:
    """All rows: everything is up at once, and each round runs each contender once, in another order."""
    with contextlib.ExitStack() as stack:
        ready, rows = started_peers(stage, stack)
        for callers in CALLERS:
            contenders: dict[str, Measure] = {
                "hello": partial(load, stage.hello_port, "/", connections=callers, seconds=ROUND_S),
                "Forebay": partial(load, stage.port, ECHO_PATH, connections=callers, seconds=ROUND_S),
                "naive": partial(load, stage.naive_port, "/", connections=callers, seconds=ROUND_S),
                **{title: partial(_tried, title, measure, callers) for title, measure in ready.items()},
            }
            load(stage.port, ECHO_PATH, connections=callers, seconds=1)
            rows += rows_of(callers, rotated_rounds(ROUNDS, contenders))
    return rows


def _tried(title: str, measure: Callable[[int, float], dict[str, float]], callers: int) -> dict[str, float] | None:
    try:
        return measure(callers, ROUND_S)
    except RuntimeError as error:
        print(f"{title}: {error}", file=sys.stderr)
        return None


def rows_of(callers: int, results: dict[str, list[Any]]) -> list[Row]:
    """The rows of some rounds, each ratio inside its round. Pure."""
    rows = []
    hello = [_per_second(figures) for figures in results["hello"]]
    for title, rounds in results.items():
        if None in rounds:
            rows.append(Row(title, callers, note="failed in a round"))
            continue
        ratios = [_per_second(figures) / floor for figures, floor in zip(rounds, hello, strict=True)]
        p50_ms, p99_ms = (statistics.median(figures[name] for figures in rounds) / 1e3 for name in ("p50_us", "p99_us"))
        rows.append(Row(title, callers, statistics.median(ratios), spread(ratios), p50_ms, p99_ms))
    return rows


def _per_second(figures: dict[str, float]) -> float:
    return figures["requests"] / figures["seconds"]


def table(rows: Sequence[Row]) -> str:
    """A Markdown table."""
    lines = ["| | callers | requests/s ÷ hello | p50 ms | p99 ms |", "|---|---|---|---|---|"]
    for row in rows:
        if row.note:
            lines.append(f"| {row.title} | {row.callers or '-'} | {row.note} | - | - |")
        else:
            figures = f"{row.ratio:.3f} ±{row.spread:.0%} | {row.p50_ms:.2f} | {row.p99_ms:.2f}"
            lines.append(f"| {row.title} | {row.callers} | {figures} |")
    return "\n".join(lines)


def main(arguments: Sequence[str]) -> int:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks peers", description="The same echo through peers.")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows as a JSON list")
    options = parser.parse_args(arguments)
    with open_stage() as stage:
        rows = measure_peers(stage)
    print(table(rows))
    if options.json:
        options.json.write_text(json.dumps([asdict(row) for row in rows], indent=2) + "\n")
    return 0
