"""Compares what callers were told with what was executed and what stands in the queues. Pure.

The promises are those of docs/reliability.md; each rule names the one it holds. What is said of events is in
`verdict_events.py`.
"""

from collections import defaultdict

from . import plan, verdict_events
from .case import LATE_MAX_S, Case, Evidence, Verdict
from .load import Call
from .plan import GATEWAY, KILL, PAUSE, RUNTIME, SANDBOX

ACCEPT_MAX_S = 8.0
"""An event's caller hears after the silence that a gateway lets Redis have (5 s), and a moment."""
DETECTION_S = 3.0
"""From an instance's death to its callers' being told."""
RESTART_S = 3.0
"""Until a part that was killed, and started again by `up` or by us, does its work."""
NOT_ACCEPTED = "was not accepted"
"""What a gateway says of a call that cannot have been queued."""


def judge(evidence: Evidence) -> Verdict:
    """Hold everything to what is promised."""
    verdict = Verdict()
    cases = _cases(evidence, verdict)
    for case in cases:
        for call in case.calls:
            _waited(case, call, evidence, verdict)
            if call.status == 0 and not _broken(call, evidence):
                verdict.wrong(f"{case.name} got no answer although its gateway lived: {case.story}")
            if call.status in {400, 403, 404}:
                verdict.wrong(f"{case.name} was not understood: {case.story}")
        _refused_runs(case, verdict)
        verdict.repeated += max(0, len(case.got) - 1)
        if case.plan.sync:
            _sync(case, evidence, verdict)
        else:
            verdict_events.event(case, evidence, verdict)
    verdict_events.order(cases, evidence, verdict)
    return verdict


def _cases(evidence: Evidence, verdict: Verdict) -> list[Case]:
    """What is known of each event and sync call, in the order of their sending."""
    calls, entries, dead = defaultdict(list), defaultdict(list), defaultdict(list)
    for call in evidence.calls:
        calls[call.plan.ident].append(call)
    for entry in evidence.entries:
        entries[entry.ident].append(entry)
    for letter in evidence.dead:
        dead[letter.ident].append(letter)
    for ident in (entries.keys() | dead.keys()) - calls.keys():
        verdict.wrong(f"{ident} was never sent and stands in the ledger or the dead letters")
    return [Case(found, entries[ident], dead[ident]) for ident, found in calls.items()]


def _waited(case: Case, call: Call, evidence: Evidence, verdict: Verdict) -> None:
    """A caller never waits past its deadline, but for as long as its gateway was held by a SIGSTOP."""
    waited_s = call.answered_s - call.sent_s
    held_s = sum(
        min(hit.end_s, call.answered_s) - max(hit.begin_s, call.sent_s)
        for hit in evidence.hits
        if hit.how == PAUSE and hit.url == call.url and hit.touches(call.sent_s, call.answered_s)
    )
    wait_s = call.plan.wait_s if call.plan.sync else ACCEPT_MAX_S
    # On its way to the gateway, where the wait begins, and from its end on: what is in between is within the wait.
    starved_s = evidence.starved(call.url, call.sent_s, call.sent_s + LATE_MAX_S)
    starved_s += evidence.starved(call.url, call.sent_s + wait_s, call.answered_s)
    allowed_s = wait_s + LATE_MAX_S + held_s + starved_s
    if waited_s > allowed_s:
        verdict.wrong(f"{case.name} waited {waited_s:.2f} s, allowed {allowed_s:.2f} s: {case.story}")


def _refused_runs(case: Case, verdict: Verdict) -> None:
    """What was answered as not accepted does not run; an AWS client sends a call again after a 5xx."""
    if all(map(_is_refused, case.calls)) and (case.starts or case.dead):
        verdict.wrong(f"{case.name} was refused and ran: {case.story}")


def _is_refused(call: Call) -> bool:
    refused = call.unsent or 400 <= call.status < 500 or NOT_ACCEPTED in call.text
    return refused or (call.plan.sync and call.status >= 500)


def _broken(call: Call, evidence: Evidence) -> bool:
    """Whether the gateway of a call was killed while it waited."""
    return call.unsent or any(
        hit.how == KILL
        and hit.part == GATEWAY
        and hit.url == call.url
        and hit.touches(call.sent_s - LATE_MAX_S, call.answered_s)
        for hit in evidence.hits
    )


def _sync(case: Case, evidence: Evidence, verdict: Verdict) -> None:
    """A sync call is not executed twice, also not when it is repeated under its key; its answer is its own."""
    verdict.sync += 1
    verdict.sync_answered += any(call.status != 0 for call in case.calls)
    if len(case.starts) > 1:
        verdict.wrong(f"{case.name} was executed {len(case.starts)} times: {case.story}")
    if case.dead:
        verdict.wrong(f"{case.name} became a dead letter: {case.story}")
    for call in case.calls:
        if call.status == 200 and not call.error and (len(case.ends) != 1 or not call.echoed):
            verdict.wrong(f"{case.name} was answered with what it did not give: {case.story}")
        if call.status in {202, 422}:
            verdict.wrong(f"{case.name} was taken for something else: {case.story}")
    if len(case.got) == 1:
        _told_at_once(case, case.got[0], evidence, verdict)


def _told_at_once(case: Case, call: Call, evidence: Evidence, verdict: Verdict) -> None:
    """A caller whose instance was killed hears of it within the detection time, counted from when all else is whole."""
    if not case.starts or case.ends:
        return
    start = case.starts[0]
    for hit in evidence.hits:
        mine = hit.how == KILL and hit.instance == start.instance and hit.part in {RUNTIME, SANDBOX}
        if not mine or not start.at_s <= hit.begin_s < call.answered_s:
            continue
        whole_s = _whole_from(hit.begin_s, call, evidence)
        told_s = call.answered_s - whole_s
        starved_s = evidence.starved(call.url, hit.begin_s, call.answered_s, plan.CONTROLLER)
        if told_s > DETECTION_S + starved_s:
            verdict.wrong(f"{case.name} was told {told_s:.2f} s after its instance was killed: {case.story}")


def _whole_from(begin_s: float, call: Call, evidence: Evidence) -> float:
    """From when on the parts that tell a caller of its instance's death are whole for long enough to do so."""
    whole_s = begin_s
    for other in sorted(evidence.hits, key=lambda hit: hit.begin_s):
        needed = other.part in {plan.CONTROLLER, plan.VALKEY} or other.url == call.url
        if needed and whole_s - RESTART_S <= other.end_s and other.begin_s <= whole_s + DETECTION_S:
            whole_s = max(whole_s, other.end_s + (RESTART_S if other.how == KILL else 0.0))
    return whole_s
