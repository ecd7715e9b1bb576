"""The reckoning itself: each broken promise is seen, and what a fault explains is not one."""

from dataclasses import replace

import pytest

from chaos.executions import END, FAIL, START, Entry
from chaos.faults import Hit
from chaos.load import Call
from chaos.plan import FUNCTIONS, GATEWAY, KILL, PAUSE, RUNTIME, CallPlan
from chaos.queues import DeadLetter
from chaos.verdict import Evidence, Verdict, judge

QUICK = next(function for function in FUNCTIONS if function.name == "quick")
FAILING = next(function for function in FUNCTIONS if function.name == "failing")
PLAN = CallPlan(0.0, "c1", QUICK, sync=False, gateway=0, work_s=0.0, filler_bytes=0, wait_s=5.0)
EVENT = Call(PLAN, "http://a", sent_s=100.0, answered_s=100.1, status=202)
SYNC = Call(replace(PLAN, sync=True), "http://a", sent_s=100.0, answered_s=100.5, status=200, echoed=True)
FAILING_EVENT = replace(EVENT, plan=replace(PLAN, function=FAILING))
RAN = [Entry(100.2, START, "c1", "i1"), Entry(100.3, END, "c1", "i1")]
RAN_AGAIN = [*RAN, Entry(101.0, START, "c1", "i2"), Entry(101.1, END, "c1", "i2")]
FAILED_TWICE = [
    Entry(100.2, START, "c1", "i1"), Entry(100.3, FAIL, "c1", "i1"),
    Entry(100.8, START, "c1", "i1"), Entry(100.9, FAIL, "c1", "i1"),
]  # fmt: skip
EXHAUSTED = DeadLetter("c1", "RetriesExhausted", 2, payload_kept=True)
KILLED = Hit(100.4, 100.4, KILL, RUNTIME, "runtime of i1", 1, instance="i1")


def verdict(
    call: Call, entries: list[Entry] = RAN, dead: tuple[DeadLetter, ...] = (), hits: tuple[Hit, ...] = ()
) -> Verdict:
    return judge(Evidence(calls=[call], entries=entries, dead=dead, hits=hits))


@pytest.mark.parametrize(
    ("call", "entries", "dead", "hits"),
    [
        (EVENT, RAN, (), ()),
        (EVENT, RAN_AGAIN, (), (KILLED,)),
        (FAILING_EVENT, FAILED_TWICE, (EXHAUSTED,), ()),
        (replace(EVENT, status=503, text="it may or may not run"), RAN, (), ()),
        (SYNC, RAN, (), ()),
        (replace(SYNC, status=429), [], (), ()),
        (replace(SYNC, answered_s=108.0), RAN, (), (Hit(101.0, 104.0, PAUSE, GATEWAY, "gateway", 1, url="http://a"),)),
    ],
)
def test_what_is_promised_or_explained_is_right(
    call: Call, entries: list[Entry], dead: tuple[DeadLetter, ...], hits: tuple[Hit, ...]
) -> None:
    assert verdict(call, entries, dead, hits).violations == []


@pytest.mark.parametrize(
    ("call", "entries", "dead", "hits", "said"),
    [
        (EVENT, [], (), (), "is lost"),
        (EVENT, RAN_AGAIN, (), (), "without a fault"),
        (EVENT, RAN_AGAIN, (), (replace(KILLED, instance="i3"),), "without a fault"),
        (EVENT, RAN_AGAIN, (), (replace(KILLED, begin_s=60.0, end_s=60.0),), "without a fault"),
        (FAILING_EVENT, FAILED_TWICE[:2], (), (), "is lost"),
        (FAILING_EVENT, FAILED_TWICE, (EXHAUSTED, EXHAUSTED), (), "2 dead letters"),
        (FAILING_EVENT, FAILED_TWICE, (replace(EXHAUSTED, attempts=1),), (), "no good reason"),
        (FAILING_EVENT, FAILED_TWICE, (replace(EXHAUSTED, payload_kept=False),), (), "without its payload"),
        (EVENT, [], (EXHAUSTED,), (), "nothing happened to an instance"),
        (replace(EVENT, status=429), RAN, (), (), "was refused and ran"),
        (replace(EVENT, status=0, failure="ReadError: "), RAN, (), (), "no answer although its gateway lived"),
        (SYNC, RAN_AGAIN, (), (KILLED,), "executed 2 times"),
        (SYNC, [], (), (), "what it did not give"),
        (replace(SYNC, status=503), RAN, (), (), "was refused and ran"),
        (replace(SYNC, answered_s=108.0), RAN, (), (), "waited 8.00 s"),
        (replace(SYNC, answered_s=104.0, error=True), RAN[:1], (), (KILLED,), "told 3.60 s after"),
    ],
)
def test_a_broken_promise_is_seen(
    call: Call, entries: list[Entry], dead: tuple[DeadLetter, ...], hits: tuple[Hit, ...], said: str
) -> None:
    assert any(said in violation for violation in verdict(call, entries, dead, hits).violations)
