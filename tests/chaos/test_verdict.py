"""The reckoning itself: each broken promise is seen, and what a fault explains is not one."""

from dataclasses import replace

import pytest

from chaos.case import Evidence, Verdict
from chaos.executions import END, FAIL, START, TOLD, Entry
from chaos.faults import Hit
from chaos.load import Call, Cancellation
from chaos.plan import FAILS_ALWAYS, FUNCTIONS, GATEWAY, KILL, PAUSE, RUNTIME, CallPlan
from chaos.queues import DeadLetter
from chaos.results import Result
from chaos.verdict import judge

BY_NAME = {function.name: function for function in FUNCTIONS}
PLAN = CallPlan(0.0, "c1", BY_NAME["quick"], sync=False, gateway=0, work_s=0.0, filler_bytes=0, wait_s=5.0)
EVENT = Call(PLAN, "http://a", sent_s=100.0, answered_s=100.1, status=202, invocation_id="i")
SYNC = Call(replace(PLAN, sync=True), "http://a", sent_s=100.0, answered_s=100.5, status=200, echoed=True)
FAILING_EVENT = replace(EVENT, plan=replace(PLAN, function=BY_NAME["failing"], fails=FAILS_ALWAYS))
RAN = [Entry(100.2, START, "c1", "i1"), Entry(100.3, END, "c1", "i1")]
RAN_AGAIN = [*RAN, Entry(101.0, START, "c1", "i2"), Entry(101.1, END, "c1", "i2")]
FAILED_TWICE = [
    Entry(100.2, START, "c1", "i1"), Entry(100.3, FAIL, "c1", "i1"),
    Entry(100.8, START, "c1", "i1"), Entry(100.9, FAIL, "c1", "i1"),
]  # fmt: skip
EXHAUSTED = DeadLetter("c1", "failing", "RetriesExhausted", 2)
KILLED = Hit(100.4, 100.4, KILL, RUNTIME, "runtime of i1", 1, instance="i1")
KEYED = replace(EVENT, plan=replace(PLAN, key="k"))
KEYED_SYNC = replace(SYNC, plan=replace(PLAN, sync=True, key="k"))
LATER = replace(EVENT, plan=replace(PLAN, function=BY_NAME["later"], delay_s=2.0))
REPORTED = replace(EVENT, plan=replace(PLAN, function=BY_NAME["reported"]))
REPORTED_FAILING = replace(REPORTED, plan=replace(REPORTED.plan, fails=FAILS_ALWAYS))
TOLD_SUCCESS, TOLD_FAILURE = (Entry(101.5, f"{TOLD}{how}", "c1", "sink1") for how in ("Success", "RetriesExhausted"))
CALLED_OFF = replace(
    EVENT,
    plan=replace(PLAN, function=BY_NAME["slow"], cancel_s=0.0),
    cancellation=Cancellation(100.1, 100.15, 200, "cancelled", 0),
)
STARTED_CALLED_OFF = replace(CALLED_OFF, cancellation=Cancellation(100.4, 100.5, 200, "cancelled", 1))

Case = tuple[list[Call], list[Entry], tuple[DeadLetter, ...], tuple[Hit, ...]]


def verdict(case: Case, **more: Result) -> Verdict:
    calls, entries, dead, hits = case
    return judge(Evidence(calls=calls, entries=entries, dead=dead, hits=hits, results=more))


RIGHT: dict[str, Case] = {
    "an event ran": ([EVENT], RAN, (), ()),
    "again, since its instance was killed": ([EVENT], RAN_AGAIN, (), (KILLED,)),
    "it failed as often as it may": ([FAILING_EVENT], FAILED_TWICE, (EXHAUSTED,), ()),
    "nobody knew whether it would run": ([replace(EVENT, status=503, text="it may or may not run")], RAN, (), ()),
    "a sync call": ([SYNC], RAN, (), ()),
    "a refused one": ([replace(SYNC, status=429)], [], (), ()),
    "a late one, since its gateway was paused": (
        [replace(SYNC, answered_s=108.0)], RAN, (), (Hit(101.0, 104.0, PAUSE, GATEWAY, "gateway", 1, url="http://a"),),
    ),
    "repeats of one event": ([KEYED, replace(KEYED, status=503, text="may"), KEYED], RAN, (), ()),
    "repeats of one call": ([KEYED_SYNC, replace(KEYED_SYNC, url="http://b", sent_s=100.2)], RAN, (), ()),
    "a repeat that was refused": ([KEYED_SYNC, replace(KEYED_SYNC, status=429)], RAN, (), ()),
    "called off before it ran": ([CALLED_OFF], [], (), ()),
    "called off while it ran": ([STARTED_CALLED_OFF], RAN[:1], (), ()),
    "at its time": ([LATER], [Entry(102.1, START, "c1", "i1"), Entry(102.2, END, "c1", "i1")], (), ()),
    "late, since something happened": (
        [LATER], [Entry(104.1, START, "c1", "i1"), Entry(104.2, END, "c1", "i1")], (), (replace(KILLED, end_s=103.0),),
    ),
    "told": ([REPORTED], [*RAN, TOLD_SUCCESS, TOLD_SUCCESS], (), ()),
    "told of its failure": ([REPORTED_FAILING], [*FAILED_TWICE, TOLD_FAILURE], (), ()),
    "its destination could not hear": (
        [REPORTED], RAN, (DeadLetter("c1", "sink", "RetriesExhausted", 2, told="Success"),), (KILLED,),
    ),
}  # fmt: skip
WRONG: dict[str, Case] = {
    "is lost": ([EVENT], [], (), ()),
    "ran again without a fault": ([EVENT], RAN_AGAIN, (), ()),
    "without a fault that explains it": ([EVENT], RAN_AGAIN, (), (replace(KILLED, instance="i3"),)),
    "again without a fault that explains it": ([EVENT], RAN_AGAIN, (), (replace(KILLED, begin_s=60.0, end_s=60.0),)),
    "was accepted and is lost": ([FAILING_EVENT], FAILED_TWICE[:2], (), ()),
    "2 dead letters": ([FAILING_EVENT], FAILED_TWICE, (EXHAUSTED, EXHAUSTED), ()),
    "no good reason": ([FAILING_EVENT], FAILED_TWICE, (replace(EXHAUSTED, attempts=1),), ()),
    "without its payload": ([FAILING_EVENT], FAILED_TWICE, (replace(EXHAUSTED, payload_kept=False),), ()),
    "nothing happened to an instance": ([EVENT], [], (EXHAUSTED,), ()),
    "was refused and ran": ([replace(EVENT, status=429)], RAN, (), ()),
    "no answer although its gateway lived": ([replace(EVENT, status=0, failure="ReadError: ")], RAN, (), ()),
    "not understood": ([replace(EVENT, status=400)], [], (), ()),
    "executed 2 times": ([SYNC], RAN_AGAIN, (), (KILLED,)),
    "what it did not give": ([SYNC], [], (), ()),
    "refused and ran": ([replace(SYNC, status=503)], RAN, (), ()),
    "waited 8.00 s": ([replace(SYNC, answered_s=108.0)], RAN, (), ()),
    "told 3.60 s after": ([replace(SYNC, answered_s=104.0, error=True)], RAN[:1], (), (KILLED,)),
    "accepted as 2 events": ([KEYED, replace(KEYED, invocation_id="j")], RAN, (), ()),
    "another payload": ([KEYED, replace(KEYED, status=422)], RAN, (), ()),
    "was executed 2 times": ([KEYED_SYNC, KEYED_SYNC], RAN_AGAIN, (), ()),
    "called off before it ran, and ran": ([CALLED_OFF], [Entry(100.12, START, "c1", "i1")], (), ()),
    "started after it was called off": (
        [STARTED_CALLED_OFF], [RAN[0], Entry(101.0, START, "c1", "i2")], (), (KILLED,),
    ),
    "before its time": ([LATER], RAN, (), ()),
    "2.00 s after its time": ([LATER], [Entry(104.1, START, "c1", "i1"), Entry(104.2, END, "c1", "i1")], (), ()),
    "destination was not told": ([REPORTED], RAN, (), ()),
    "said to have succeeded": ([REPORTED_FAILING], [*FAILED_TWICE, TOLD_SUCCESS], (), ()),
    "in two ways": ([REPORTED], [*RAN, TOLD_SUCCESS, TOLD_FAILURE], (), ()),
    "although it has a destination": (
        [REPORTED_FAILING], FAILED_TWICE, (replace(EXHAUSTED, function="reported"),), (),
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", RIGHT)
def test_what_is_promised_or_explained_is_right(what: str) -> None:
    assert verdict(RIGHT[what]).violations == []


@pytest.mark.parametrize("said", WRONG)
def test_a_broken_promise_is_seen(said: str) -> None:
    violations = verdict(WRONG[said]).violations
    assert any(said in violation for violation in violations), violations


@pytest.mark.parametrize(
    ("result", "right"),
    [
        (Result("succeeded", 1, "", "c1"), True),
        (Result("succeeded", 1, "", "c2"), False),
        (Result("succeeded", 0), False),
        (Result("failed", 2, "RetriesExhausted"), False),
        (Result("cancelled", 1), False),
        (Result("running", 1), False),
        (Result(), False),
    ],
)
def test_what_is_said_of_an_event_later_is_compared_with_what_it_did(result: Result, right: bool) -> None:  # noqa: FBT001
    assert (verdict(RIGHT["an event ran"], i=result).violations == []) is right


def test_events_of_a_group_are_held_to_their_order() -> None:
    grouped = replace(PLAN, function=BY_NAME["ordered"], group="g")
    first = replace(EVENT, plan=grouped)
    second = replace(EVENT, plan=replace(grouped, ident="c2"), sent_s=100.15, answered_s=100.2)
    others = {
        "after it": [Entry(100.4, START, "c2", "i2"), Entry(100.5, END, "c2", "i2")],
        "within it": [Entry(100.25, START, "c2", "i2"), Entry(100.5, END, "c2", "i2")],
    }
    assert verdict(([first, second], RAN + others["after it"], (), ())).violations == []
    [violation] = verdict(([first, second], RAN + others["within it"], (), ())).violations
    assert "event c2 of ordered of g started before event c1 of ordered was over" in violation
    # Sent before the other one was accepted: no order is promised.
    at_once = replace(second, sent_s=100.05)
    assert verdict(([first, at_once], RAN + others["within it"], (), ())).violations == []
