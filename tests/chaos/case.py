"""What is known after a run, call by call; and what excuses lateness and repetition."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from forebay_common.limits import LEASE_MS

from . import plan
from .executions import END, START, TOLD, Entry
from .faults import Hit
from .load import Call
from .queues import DeadLetter
from .results import Result
from .starvation import CALLERS, Starvation

LEASE_S = LEASE_MS / 1000
LATE_MAX_S = 1.0


@dataclass(slots=True)
class Evidence:
    """What is known after a run. `results` are by invocation id.

    `loss_allowed`: Redis was killed while what it had accepted was not on disk.
    """

    calls: Sequence[Call]
    entries: Sequence[Entry]
    dead: Sequence[DeadLetter]
    hits: Sequence[Hit]
    results: Mapping[str, Result] = field(default_factory=dict)
    starvation: Starvation = field(default_factory=Starvation)
    loss_allowed: bool = False

    def starved(self, url: str, begin_s: float, end_s: float, *others: str) -> float:
        """How long a caller, its gateway, Redis and other parts had no CPU in a span."""
        return self.starvation.during(begin_s, end_s, CALLERS, plan.VALKEY, url, *others)


@dataclass(slots=True)
class Verdict:
    """What came of a run: what is wrong, and figures."""

    violations: list[str] = field(default_factory=list)
    accepted: int = 0
    finished: int = 0
    dead: int = 0
    cancelled: int = 0
    lost: int = 0
    duplicates: int = 0
    explained: int = 0
    sync: int = 0
    sync_answered: int = 0
    unknown: int = 0
    repeated: int = 0
    told: int = 0

    def wrong(self, what: str) -> None:
        """Note a promise that was not kept."""
        self.violations.append(what)


class Case:
    """One event or sync call with everything that is known of it; it may have been sent several times.

    `told` are the ends that its destination heard of: the conditions.
    """

    def __init__(self, calls: Sequence[Call], entries: Sequence[Entry], dead: Sequence[DeadLetter]) -> None:
        self.calls = calls
        self.plan = calls[0].plan
        self.function = self.plan.function
        self.entries = [entry for entry in entries if not entry.what.startswith(TOLD)]
        self.starts = [entry for entry in self.entries if entry.what == START]
        self.ends = [entry for entry in self.entries if entry.what == END]
        self.dead = [letter for letter in dead if not letter.told]
        self.told = [entry.what.removeprefix(TOLD) for entry in entries if entry.what.startswith(TOLD)]
        # Its destination is a function, which has dead letters of its own.
        self.told += [letter.told for letter in dead if letter.told]
        self.accepted = [call for call in calls if call.accepted]
        self.cancellations = [call.cancellation for call in calls if call.cancellation is not None]
        kind = "sync call" if self.plan.sync else "event"
        self.name = f"{kind} {self.plan.ident} of {self.function.name}"

    @property
    def sent_s(self) -> float:
        """When it was sent first to somebody who can have got it."""
        return (self.got or self.calls)[0].sent_s

    @property
    def got(self) -> list[Call]:
        """The tries that somebody can have got."""
        return [call for call in self.calls if not call.unsent]

    @property
    def over_s(self) -> float:
        """When the last was heard of it."""
        return max(
            [
                *(call.answered_s for call in self.calls),
                *(entry.at_s for entry in self.entries),
                *(cancellation.answered_s for cancellation in self.cancellations),
            ]
        )

    @property
    def story(self) -> str:
        """All of it, for people."""
        answers = "; ".join(
            f"sent {call.sent_s - self.sent_s:.2f} s, answered {call.status} {call.failure or call.text[:120]!r} "
            f"after {call.answered_s - call.sent_s:.2f} s {call.invocation_id}"
            for call in self.calls
        )
        ran = ", ".join(f"{entry.what} {entry.at_s - self.sent_s:.2f} s in {entry.instance}" for entry in self.entries)
        ends = [f"dead {letter.reason} after {letter.attempts}" for letter in self.dead]
        ends += [f"told {condition}" for condition in self.told]
        ends += [
            f"cancelled at {found.sent_s - self.sent_s:.2f} s: {found.http_status} {found.status} {found.attempts}"
            for found in self.cancellations
        ]
        return f"{answers}; {ran or 'no start'}; {', '.join(ends) or 'not dead'}"
