"""Compares what callers were told with what was executed and what stands in the queues. Pure.

The promises are those of docs/architecture.md and docs/queue-protocol.md; each rule names the one it holds.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from forebay_common.limits import LEASE_MS

from . import plan
from .executions import END, FAIL, START, Entry
from .faults import Hit
from .load import Call
from .queues import DeadLetter
from .starvation import CALLERS, Starvation

LEASE_S = LEASE_MS / 1000
LATE_MAX_S = 1.0
ACCEPT_MAX_S = 8.0
"""An event's caller hears after the silence that a gateway lets Redis have (5 s), and a moment."""
EARLY_MAX_S = 0.02
"""Redis counts a delay in whole milliseconds from the moment it hears of the failure, which is after the ledger has."""
DETECTION_S = 3.0
"""From an instance's death to its callers' being told."""
NOT_ACCEPTED = "was not accepted"
"""What a gateway says of a call that cannot have been queued."""


@dataclass(slots=True)
class Evidence:
    """What is known after a run. `loss_allowed`: Redis was killed while what it had accepted was not on disk."""

    calls: Sequence[Call]
    entries: Sequence[Entry]
    dead: Sequence[DeadLetter]
    hits: Sequence[Hit]
    starvation: Starvation = field(default_factory=Starvation)
    loss_allowed: bool = False


@dataclass(slots=True)
class Verdict:
    """What came of a run: what is wrong, and figures."""

    violations: list[str] = field(default_factory=list)
    accepted: int = 0
    finished: int = 0
    dead: int = 0
    lost: int = 0
    duplicates: int = 0
    explained: int = 0
    sync: int = 0
    sync_answered: int = 0
    unknown: int = 0

    def wrong(self, what: str) -> None:
        """Note a promise that was not kept."""
        self.violations.append(what)


class _Case:
    """One call with everything that is known of it."""

    def __init__(self, call: Call, entries: Sequence[Entry], dead: Sequence[DeadLetter]) -> None:
        self.call = call
        self.function = call.plan.function
        self.entries = entries
        self.starts = [entry for entry in entries if entry.what == START]
        self.ends = [entry for entry in entries if entry.what == END]
        self.dead = dead
        kind = "sync call" if call.plan.sync else "event"
        self.name = f"{kind} {call.plan.ident} of {self.function.name}"

    @property
    def story(self) -> str:
        """Its executions, for people."""
        told = f"answered {self.call.status} {self.call.failure or self.call.text[:120]!r}"
        ran = ", ".join(
            f"{entry.what} {entry.at_s - self.call.sent_s:.2f} s in {entry.instance}" for entry in self.entries
        )
        buried = ", ".join(f"dead {letter.reason} after {letter.attempts}" for letter in self.dead)
        return (
            f"{told} after {self.call.answered_s - self.call.sent_s:.2f} s; {ran or 'no start'}; {buried or 'not dead'}"
        )


def judge(evidence: Evidence) -> Verdict:
    """Hold everything to what is promised."""
    verdict = Verdict()
    entries: dict[str, list[Entry]] = defaultdict(list)
    for entry in evidence.entries:
        entries[entry.ident].append(entry)
    dead: dict[str, list[DeadLetter]] = defaultdict(list)
    for letter in evidence.dead:
        dead[letter.ident].append(letter)
    known = {call.plan.ident for call in evidence.calls}
    for ident in (entries.keys() | dead.keys()) - known:
        verdict.wrong(f"{ident} was never sent and stands in the ledger or the dead letters")
    for call in evidence.calls:
        case = _Case(call, entries[call.plan.ident], dead[call.plan.ident])
        _waited(case, evidence, verdict)
        _refused_runs(case, verdict)
        if call.plan.sync:
            _sync(case, evidence, verdict)
        else:
            _event(case, evidence, verdict)
    return verdict


def _waited(case: _Case, evidence: Evidence, verdict: Verdict) -> None:
    """A caller never waits past its deadline, but for as long as its gateway was held by a SIGSTOP."""
    call = case.call
    waited_s = call.answered_s - call.sent_s
    held_s = sum(
        min(hit.end_s, call.answered_s) - max(hit.begin_s, call.sent_s)
        for hit in evidence.hits
        if hit.how == plan.PAUSE and hit.url == call.url and hit.touches(call.sent_s, call.answered_s)
    )
    wait_s = call.plan.wait_s if call.plan.sync else ACCEPT_MAX_S
    # On its way to the gateway, where the wait begins, and from its end on: what is in between is within the wait.
    starved_s = _starved(evidence, call, call.sent_s, call.sent_s + LATE_MAX_S)
    starved_s += _starved(evidence, call, call.sent_s + wait_s, call.answered_s)
    allowed_s = wait_s + LATE_MAX_S + held_s + starved_s
    if waited_s > allowed_s:
        verdict.wrong(f"{case.name} waited {waited_s:.2f} s, allowed {allowed_s:.2f} s: {case.story}")


def _starved(evidence: Evidence, call: Call, begin_s: float, end_s: float) -> float:
    return evidence.starvation.during(begin_s, end_s, CALLERS, plan.VALKEY, call.url)


def _refused_runs(case: _Case, verdict: Verdict) -> None:
    """What was answered as not accepted does not run; an AWS client sends a call again after a 5xx."""
    call = case.call
    refused = call.unsent or 400 <= call.status < 500 or NOT_ACCEPTED in call.text
    refused = refused or (call.plan.sync and call.status >= 500)
    if refused and (case.starts or case.dead):
        verdict.wrong(f"{case.name} was refused and ran: {case.story}")


def _sync(case: _Case, evidence: Evidence, verdict: Verdict) -> None:
    call = case.call
    verdict.sync += 1
    verdict.sync_answered += call.status != 0
    if len(case.starts) > 1:
        verdict.wrong(f"{case.name} was executed {len(case.starts)} times: {case.story}")
    if case.dead:
        verdict.wrong(f"{case.name} became a dead letter: {case.story}")
    if call.status == 200 and not call.error and (len(case.ends) != 1 or not call.echoed):
        verdict.wrong(f"{case.name} was answered with what it did not give: {case.story}")
    if call.status == 0 and not _broken(call, evidence):
        verdict.wrong(f"{case.name} got no answer although its gateway lived: {case.story}")
    _told_at_once(case, evidence, verdict)


def _told_at_once(case: _Case, evidence: Evidence, verdict: Verdict) -> None:
    """A caller whose instance was killed hears of it within the detection time, unless more is broken."""
    if not case.starts or case.ends:
        return
    start = case.starts[0]
    for hit in evidence.hits:
        mine = hit.how == plan.KILL and hit.instance == start.instance and hit.part in {plan.RUNTIME, plan.SANDBOX}
        if not mine or not start.at_s <= hit.begin_s < case.call.answered_s:
            continue
        told_s = case.call.answered_s - hit.begin_s
        others = [
            other
            for other in evidence.hits
            if (other.part in {plan.CONTROLLER, plan.VALKEY} or other.url == case.call.url)
            and other.touches(hit.begin_s - DETECTION_S, hit.begin_s + DETECTION_S)
        ]
        starved_s = _starved(evidence, case.call, hit.begin_s, case.call.answered_s)
        starved_s += evidence.starvation.during(hit.begin_s, case.call.answered_s, plan.CONTROLLER)
        if told_s > DETECTION_S + starved_s and not others:
            verdict.wrong(f"{case.name} was told {told_s:.2f} s after its instance was killed: {case.story}")


def _broken(call: Call, evidence: Evidence) -> bool:
    """Whether the gateway of a call was killed while it waited."""
    end_s = call.answered_s
    return call.unsent or any(
        hit.how == plan.KILL and hit.url == call.url and hit.touches(call.sent_s - LATE_MAX_S, end_s)
        for hit in evidence.hits
    )


def _event(case: _Case, evidence: Evidence, verdict: Verdict) -> None:
    call = case.call
    verdict.accepted += call.accepted
    verdict.unknown += not call.accepted and call.status in {0, 503}
    if call.status == 0 and not _broken(call, evidence):
        verdict.wrong(f"{case.name} got no answer although its gateway lived: {case.story}")
    if call.accepted:
        _kept(case, evidence, verdict)
    _repeated(case, evidence, verdict)
    _buried(case, evidence, verdict)


def _kept(case: _Case, evidence: Evidence, verdict: Verdict) -> None:
    """An accepted event is finished or a dead letter."""
    if case.ends:
        verdict.finished += 1
    elif case.dead:
        verdict.dead += 1
    else:
        verdict.lost += 1
        if not evidence.loss_allowed:
            verdict.wrong(f"{case.name} was accepted and is lost: {case.story}")
    if case.ends and not case.function.succeeds:
        verdict.wrong(f"{case.name} ended although its handler never does: {case.story}")


def _repeated(case: _Case, evidence: Evidence, verdict: Verdict) -> None:
    """A start that follows no failure is a duplicate: explained by a fault on its instance or Redis, within a lease."""
    for before, start in zip(case.starts, case.starts[1:], strict=False):
        if _is_retry(case, before, start) or case.function.kind == "poison":
            continue
        verdict.duplicates += 1
        if _explained(before, start.at_s, case, evidence):
            verdict.explained += 1
        else:
            verdict.wrong(f"{case.name} ran again without a fault that explains it: {case.story}")
    allowed = 1 + case.function.max_retries
    if len(case.starts) > allowed and not _redis_was_hit(case, evidence):
        verdict.wrong(f"{case.name} was started {len(case.starts)} times, allowed are {allowed}: {case.story}")


def _is_retry(case: _Case, before: Entry, start: Entry) -> bool:
    """Whether an execution had failed, and its delay was over."""
    return any(
        entry.what == FAIL
        and entry.instance == before.instance
        and before.at_s <= entry.at_s <= start.at_s - plan.RETRY_DELAYS_S[0] + EARLY_MAX_S
        for entry in case.entries
    )


def _explained(before: Entry, until_s: float, case: _Case, evidence: Evidence) -> bool:
    starved_s = _starved(evidence, case.call, before.at_s, until_s)
    starved_s += evidence.starvation.during(before.at_s, until_s, plan.CONTROLLER)
    return any(
        (hit.instance == before.instance or hit.part == plan.VALKEY)
        and hit.touches(before.at_s - LATE_MAX_S, until_s)
        and until_s - hit.end_s <= LEASE_S + LATE_MAX_S + starved_s + plan.RETRY_DELAYS_S[0]
        for hit in evidence.hits
    )


def _redis_was_hit(case: _Case, evidence: Evidence) -> bool:
    """Whether Redis may have forgotten a count: it was killed while the event was under way."""
    end_s = case.starts[-1].at_s
    return any(
        hit.part == plan.VALKEY and hit.how == plan.KILL and hit.touches(case.call.sent_s, end_s)
        for hit in evidence.hits
    )


def _buried(case: _Case, evidence: Evidence, verdict: Verdict) -> None:
    """A dead letter has used its starts, once, and says why; its payload is there for whoever repeats it."""
    if len(case.dead) > 1:
        verdict.wrong(f"{case.name} is {len(case.dead)} dead letters: {case.story}")
    for letter in case.dead:
        allowed = 1 + case.function.max_retries
        exhausted = letter.reason == "RetriesExhausted" and letter.attempts == allowed
        aged = letter.reason == "EventAgeExceeded" and case.function.max_age_s is not None
        if not (exhausted or aged):
            verdict.wrong(f"{case.name} is a dead letter for no good reason: {case.story}")
        if not letter.payload_kept:
            verdict.wrong(f"{case.name} is a dead letter without its payload: {case.story}")
        # After its instance's death nobody can tell whether an event had started: a lease counts as a start.
        cut_short = case.function.succeeds or letter.attempts > len(case.starts)
        if cut_short and not any(hit.instance or hit.part == plan.VALKEY for hit in evidence.hits):
            verdict.wrong(f"{case.name} is a dead letter although nothing happened to an instance: {case.story}")
