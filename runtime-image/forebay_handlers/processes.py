"""Ending processes: a handler process with everything it started, or all there is below us.

A function may fork, start daemons that leave its session, and ignore every signal but SIGKILL. In a process
namespace one kill from process 1 reaches all of it; elsewhere /proc tells who descends from whom.
"""

import os
from _signal import SIGKILL, SIGSTOP  # type: ignore[import-not-found] # `signal` imports enum, half a sandbox's start

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable, Dict, Iterable, List, Set, Tuple

    Table = Dict[int, Tuple[int, int]]

PASSES_MAX = 100
"""A process that forks faster than we look is met again in the next pass; the bound keeps us answering."""


def table() -> "Table":
    """All living processes that this process can see: parent and session by pid."""
    found = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open(f"/proc/{name}/stat", "rb") as file:
                    stat = file.read()
            except (FileNotFoundError, ProcessLookupError):
                continue  # it ended since the folder was listed
            # The name in brackets may itself hold brackets and blanks, so look from the last one on.
            state, parent, _group, session = stat[stat.rindex(b")") + 2 :].split(None, 4)[:4]
            if state not in {b"Z", b"X"}:
                found[int(name)] = int(parent), int(session)
    return found


def descendants(processes: "Table", root: int) -> "Set[int]":
    """Everything below `root`, without it (pure)."""
    children: "Dict[int, List[int]]" = {}
    for pid, (parent, _session) in processes.items():
        children.setdefault(parent, []).append(pid)
    found: "Set[int]" = set()
    pending = list(children.get(root, ()))
    while pending:
        pid = pending.pop()
        if pid not in found:
            found.add(pid)
            pending.extend(children.get(pid, ()))
    return found


def in_session(processes: "Table", session: int) -> "Set[int]":
    """The members of a session (pure)."""
    return {pid for pid, (_parent, of) in processes.items() if of == session}


def kill_found(find: "Callable[[Table], Iterable[int]]") -> None:
    """SIGKILL what `find` picks from the table, until it picks nothing any more."""
    for _ in range(PASSES_MAX):
        pids = list(find(table()))
        if not pids:
            return
        for pid in pids:
            send(pid, SIGKILL)


def kill_everything_below() -> None:
    """SIGKILL all that this process and its children started; this process adopts orphans, so none escapes."""
    own = os.getpid()
    if own == 1:
        try:
            os.kill(-1, SIGKILL)
        except ProcessLookupError:
            return  # nobody but us
    else:
        kill_found(lambda processes: descendants(processes, own))


def kill_tree(root: int) -> None:
    """SIGKILL a process and everything below it. It is stopped first, so that it can start nothing new."""
    send(root, SIGSTOP)
    kill_found(lambda processes: descendants(processes, root) | (in_session(processes, root) - {root}))
    send(root, SIGKILL)


def kill_session(session: int) -> None:
    """SIGKILL what is left of a session whose leader is gone."""
    kill_found(lambda processes: in_session(processes, session))


def send(pid: int, number: int) -> None:
    """Send a signal; a process that is gone is fine."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return
