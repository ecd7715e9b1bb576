"""`python -m benchmarks.compare BASE HEAD [NAME …] [--rounds N]`: what a change did, both commits in one run.

Each commit gets a folder and an environment of its own, kept for the next time; they take turns, since a machine is
never as quick as it was a minute ago.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parent.parent
CACHE = Path.home() / ".cache" / "forebay" / "compare"
DEFAULT = ("sync_throughput", "cpu_per_request", "sync_latency", "async_accept")
RUN_TIMEOUT_S = 900
LEAST = 0.03
"""A smaller difference is none: even counts vary by as much with what happens beside them."""

Figures = dict[str, dict[str, Any]]


def main() -> int:
    """Compare, and print a table; 1 when a figure is worse."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.compare", description="Two commits, in turns.")
    parser.add_argument("base")
    parser.add_argument("head")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"benchmarks (default: {' '.join(DEFAULT)})")
    parser.add_argument("--rounds", type=int, default=3, help="how often each commit runs them")
    arguments = parser.parse_args()
    names = arguments.names or list(DEFAULT)
    try:
        folders = {role: checked_out(getattr(arguments, role)) for role in ("base", "head")}
    except subprocess.CalledProcessError as error:
        parser.error(f"{' '.join(error.cmd[:3])} … failed: {(error.stderr or b'').decode().strip()}")
    found: dict[str, list[Figures]] = {"base": [], "head": []}
    for number in range(arguments.rounds):
        for role in ("base", "head") if number % 2 == 0 else ("head", "base"):
            print(f"round {number + 1}, {role} …", file=sys.stderr)
            found[role].append(run(folders[role], names))
    lines = [line_of(name, found) for name in found["head"][0] if all(name in figures for figures in found["base"])]
    print(f"{'':26}{'base':>10}{'head':>10}{'head / base':>14}")
    for text, _ in lines:
        print(text)
    return int(any(verdict == "worse" for _, verdict in lines))


def checked_out(revision: str) -> Path:
    """A folder with a commit and its environment. Raises CalledProcessError."""
    commit = _git("rev-parse", "--verify", f"{revision}^{{commit}}")
    folder = CACHE / commit[:12]
    if not (folder / ".venv" / "installed").exists():
        print(f"making an environment for {revision} ({commit[:12]}) …", file=sys.stderr)
        if not folder.exists():
            _git("worktree", "prune")
            _git("worktree", "add", "--detach", str(folder), commit)
        subprocess.run(["make", "install"], cwd=folder, check=True, capture_output=True)
    return folder


def run(folder: Path, names: list[str]) -> Figures:
    """One run of a commit's own benchmarks. Raises RuntimeError when it fails."""
    with tempfile.NamedTemporaryFile(suffix=".json") as file:
        command = [str(folder / ".venv" / "bin" / "python"), "-m", "benchmarks", *names, "--json", file.name]
        done = subprocess.run(command, cwd=folder, check=False, capture_output=True, timeout=RUN_TIMEOUT_S)
        text = Path(file.name).read_text()
    if not text:
        raise RuntimeError(f"the benchmarks of {folder.name} ended with: {done.stderr.decode()[-2000:]}")
    return {figure["name"]: figure for figure in json.loads(text)}


def line_of(name: str, found: dict[str, list[Figures]]) -> tuple[str, str]:
    """A figure's line of the table, and whether it is better, worse or the same as far as can be told."""
    values = {role: [figures[name]["value"] for figures in rounds] for role, rounds in found.items()}
    medians = {role: statistics.median(each) for role, each in values.items()}
    verdict = compared(values["base"], values["head"], more_is_better=_more_is_better(found["head"][0][name]))
    ratio = medians["head"] / medians["base"]
    return f"{name:26}{medians['base']:>10.3f}{medians['head']:>10.3f}{ratio:>14.3f}  {verdict}", verdict


def compared(base: list[float], head: list[float], *, more_is_better: bool) -> str:
    """Better or worse only where no round of one comes near any of the other."""
    if min(head) > max(base) * (1 + LEAST):
        return "better" if more_is_better else "worse"
    if max(head) < min(base) * (1 - LEAST):
        return "worse" if more_is_better else "better"
    return "same"


def _more_is_better(figure: dict[str, Any]) -> bool:
    return not str(figure["target"]).startswith("<=")


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=REPOSITORY, check=True, capture_output=True)
    return done.stdout.decode().strip()


if __name__ == "__main__":
    sys.exit(main())
