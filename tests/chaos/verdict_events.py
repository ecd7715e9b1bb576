"""Holds events to what is promised: delivery, dead letters, results, times, calling off, order, destinations."""

from collections import defaultdict
from collections.abc import Sequence

from . import plan
from .case import LATE_MAX_S, LEASE_S, Case, Evidence, Verdict
from .executions import END, FAIL, Entry
from .results import Result

EARLY_MAX_S = 0.02
"""Redis counts a delay in whole milliseconds from the moment it hears of the failure, which is after the ledger has."""
CALM_S = 5.0
"""So long before an event's time nothing must have happened to any part, for it to be due on time."""
SUCCESS = "Success"
EXHAUSTED = "RetriesExhausted"
AGED = "EventAgeExceeded"


def event(case: Case, evidence: Evidence, verdict: Verdict) -> None:
    """Hold one event to everything but its order."""
    verdict.accepted += bool(case.accepted)
    verdict.unknown += not case.accepted and any(call.status in {0, 503} for call in case.calls)
    if case.accepted:
        _kept(case, evidence, verdict)
        _once(case, evidence, verdict)
        _known(case, evidence, verdict)
        _on_time(case, evidence, verdict)
    _repeated(case, evidence, verdict)
    _buried(case, evidence, verdict)
    _cancelled(case, evidence, verdict)
    _reported(case, verdict)


def _kept(case: Case, evidence: Evidence, verdict: Verdict) -> None:
    """An accepted event is finished, a dead letter or told to have failed, or it was called off."""
    if case.ends:
        verdict.finished += 1
    elif case.dead or case.told:
        verdict.dead += 1
    elif _was_cancelled(case, evidence):
        verdict.cancelled += 1
    else:
        verdict.lost += 1
        if not evidence.loss_allowed:
            verdict.wrong(f"{case.name} was accepted and is lost: {case.story}")
    if case.ends and not case.plan.succeeds:
        verdict.wrong(f"{case.name} ended although its handler never does: {case.story}")


def _was_cancelled(case: Case, evidence: Evidence) -> bool:
    """Whether it was called off: a caller who heard nothing may have been heard."""
    said = [evidence.results.get(call.invocation_id, Result()).status for call in case.accepted]
    return bool(case.cancellations) and (any(found.done for found in case.cancellations) or "cancelled" in said)


def _once(case: Case, evidence: Evidence, verdict: Verdict) -> None:
    """A key stands for one event: whoever repeats it is given the first one's id."""
    idents = {call.invocation_id for call in case.accepted}
    if len(idents) > 1 and not evidence.loss_allowed:
        verdict.wrong(f"{case.name} was accepted as {len(idents)} events: {case.story}")
    if any(call.status == 422 for call in case.calls):
        verdict.wrong(f"{case.name} was taken for another payload: {case.story}")


def _known(case: Case, evidence: Evidence, verdict: Verdict) -> None:
    """Whoever asks later is told what came of it."""
    for ident in {call.invocation_id for call in case.accepted}:
        result = evidence.results.get(ident)
        if result is None or (not result.status and evidence.loss_allowed):
            continue
        failed = case.dead or (case.told and case.told != [SUCCESS] * len(case.told))
        right = {
            "succeeded": bool(case.ends) and result.ident in {"", case.plan.ident},
            "failed": bool(failed) and result.reason in {EXHAUSTED, AGED},
            "cancelled": bool(case.cancellations),
        }
        if not right.get(result.status, False):
            verdict.wrong(f"{case.name} is said to be {result.status or 'unknown'} {result.reason}: {case.story}")
        elif result.attempts < (1 if result.status == "succeeded" else 0):
            verdict.wrong(f"{case.name} is said to have had {result.attempts} attempts: {case.story}")


def _on_time(case: Case, evidence: Evidence, verdict: Verdict) -> None:
    """An event for later does not start before its time, nor more than a moment after it unless something happens."""
    if not case.plan.delay_s or not case.starts:
        return
    start_s = case.starts[0].at_s
    if start_s < case.sent_s + case.plan.delay_s - EARLY_MAX_S:
        verdict.wrong(
            f"{case.name} started {start_s - case.sent_s:.3f} s after it was sent, before its time: {case.story}"
        )
    due_s = case.accepted[0].answered_s + case.plan.delay_s
    if any(hit.touches(due_s - CALM_S, start_s) for hit in evidence.hits):
        return
    starved_s = evidence.starved(case.accepted[0].url, due_s, start_s, plan.CONTROLLER, case.starts[0].instance)
    if start_s > due_s + LATE_MAX_S + starved_s:
        verdict.wrong(f"{case.name} started {start_s - due_s:.2f} s after its time: {case.story}")


def _repeated(case: Case, evidence: Evidence, verdict: Verdict) -> None:
    """A start that follows no failure is a duplicate: explained by a fault on its instance or Redis, within a lease."""
    for before, start in zip(case.starts, case.starts[1:], strict=False):
        if _is_retry(case, before, start) or case.function.poison:
            continue
        verdict.duplicates += 1
        if _explained(before, start.at_s, case, evidence):
            verdict.explained += 1
        else:
            verdict.wrong(f"{case.name} ran again without a fault that explains it: {case.story}")
    allowed = 1 + case.function.max_retries
    # A Redis that lost something may have forgotten a count.
    if len(case.starts) > allowed and not evidence.loss_allowed:
        verdict.wrong(f"{case.name} was started {len(case.starts)} times, allowed are {allowed}: {case.story}")


def _is_retry(case: Case, before: Entry, start: Entry) -> bool:
    """Whether an execution had failed, and its delay was over."""
    return any(
        entry.what == FAIL
        and entry.instance == before.instance
        and before.at_s <= entry.at_s <= start.at_s - plan.RETRY_DELAYS_S[0] + EARLY_MAX_S
        for entry in case.entries
    )


def _explained(before: Entry, until_s: float, case: Case, evidence: Evidence) -> bool:
    starved_s = evidence.starved(case.calls[0].url, before.at_s, until_s, plan.CONTROLLER)
    return any(
        (hit.instance == before.instance or hit.part == plan.VALKEY)
        and hit.touches(before.at_s - LATE_MAX_S, until_s)
        and until_s - hit.end_s <= LEASE_S + LATE_MAX_S + starved_s + plan.RETRY_DELAYS_S[0]
        for hit in evidence.hits
    )


def _buried(case: Case, evidence: Evidence, verdict: Verdict) -> None:
    """A dead letter has used its starts, once, and says why; its payload is there for whoever repeats it."""
    if len(case.dead) > 1:
        verdict.wrong(f"{case.name} is {len(case.dead)} dead letters: {case.story}")
    if case.dead and case.function.reports:
        verdict.wrong(f"{case.name} is a dead letter although it has a destination: {case.story}")
    for letter in case.dead:
        allowed = 1 + case.function.max_retries
        exhausted = letter.reason == EXHAUSTED and letter.attempts == allowed
        aged = letter.reason == AGED and case.function.max_age_s is not None
        if not (exhausted or aged):
            verdict.wrong(f"{case.name} is a dead letter for no good reason: {case.story}")
        if not letter.payload_kept:
            verdict.wrong(f"{case.name} is a dead letter without its payload: {case.story}")
        # After its instance's death nobody can tell whether an event had started: a lease counts as a start.
        cut_short = case.plan.succeeds or letter.attempts > len(case.starts)
        if cut_short and not any(hit.instance or hit.part == plan.VALKEY for hit in evidence.hits):
            verdict.wrong(f"{case.name} is a dead letter although nothing happened to an instance: {case.story}")


def _cancelled(case: Case, evidence: Evidence, verdict: Verdict) -> None:
    """What was called off before it ran never runs; what ran does not run again."""
    for cancellation in case.cancellations:
        if not cancellation.done or evidence.loss_allowed:
            continue
        if case.starts and not cancellation.attempts:
            verdict.wrong(f"{case.name} was called off before it ran, and ran: {case.story}")
        if any(start.at_s > cancellation.answered_s for start in case.starts):
            verdict.wrong(f"{case.name} started after it was called off: {case.story}")
        if case.dead:
            verdict.wrong(f"{case.name} was called off and is a dead letter: {case.story}")


def _reported(case: Case, verdict: Verdict) -> None:
    """Of the end of an event that has a destination, that destination hears at least once."""
    if not case.function.reports:
        return
    verdict.told += len(case.told)
    if case.accepted and case.ends and not case.told:
        verdict.wrong(f"{case.name} has ended, and its destination was not told: {case.story}")
    if not case.ends and SUCCESS in case.told:
        verdict.wrong(f"{case.name} is said to have succeeded and has not: {case.story}")
    if len(set(case.told)) > 1:
        verdict.wrong(f"{case.name} is said to have ended in two ways: {case.story}")


def order(cases: Sequence[Case], evidence: Evidence, verdict: Verdict) -> None:
    """Of two events of a group, the second sent when the first was accepted: it starts after the first's end."""
    groups: dict[str, list[Case]] = defaultdict(list)
    for case in cases:
        if case.plan.group and case.starts:
            groups[case.plan.group].append(case)
    for members in groups.values():
        for later in members:
            for earlier in members:
                if _accepted_s(earlier) < later.sent_s:
                    _in_order(earlier, later, evidence, verdict)


def _accepted_s(case: Case) -> float:
    return case.accepted[0].answered_s if case.accepted else float("inf")


def _in_order(earlier: Case, later: Case, evidence: Evidence, verdict: Verdict) -> None:
    start = later.starts[0]
    last = earlier.starts[-1]
    # A handler process whose instance was killed may write a last line; the start that counts is another one's.
    over = [entry.at_s for entry in earlier.entries if entry.what in {END, FAIL} and entry.instance == last.instance]
    if max([last.at_s, *over]) > start.at_s and not evidence.loss_allowed:
        stories = f"{later.story} / {earlier.story}"
        verdict.wrong(f"{later.name} of {later.plan.group} started before {earlier.name} was over: {stories}")
