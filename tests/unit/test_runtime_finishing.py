"""What an instance does with ends that Redis does not take, and with entries that come too late."""

from types import SimpleNamespace
from typing import Any, cast

import pytest
from hiredis import ReplyError

from forebay_common.keys import FunctionKeys
from forebay_common.record import KIND_ASYNC, KIND_SYNC, Invocation
from forebay_runtime.console import Console
from forebay_runtime.finishing import DONE, RELEASED, Finisher
from forebay_runtime.leases import ASYNC, SYNC, Call, Leases
from forebay_runtime.loop import Loop
from forebay_runtime.queue_reader import STALE_S, QueueReader
from forebay_runtime.reading import BOTH, Read
from forebay_runtime.redis_faults import passes
from forebay_runtime.settings import RedisCredentials
from support.crashing_redis import RecordingLink

KEYS = FunctionKeys("p", "default", "f", "u")
PASSING = (
    "NOSCRIPT No matching script.",
    "LOADING Redis is loading the dataset in memory",
    "OOM command not allowed when used memory > 'maxmemory'.",
    "OOM command not allowed when used memory > 'maxmemory'. script: 88e, on @user_script:1.",
    "MISCONF Errors writing to the AOF file: No space left on device",
    "NOREPLICAS Not enough good replicas to write.",
    "READONLY You can't write against a read only replica.",
    "NOAUTH Authentication required.",
    "WRONGPASS invalid username-password pair or user is disabled.",
    "NOPERM User f has no permissions to run the 'rpush' command",
    "BUSY Redis is busy running a script. You can only call SCRIPT KILL or SHUTDOWN NOSAVE.",
    "CLUSTERDOWN The cluster is down",
    "MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.",
)


class Ends:
    """A finisher with what it tells and what it writes."""

    def __init__(self) -> None:
        self.leases = Leases()
        self.link = RecordingLink()
        self.faults: list[ReplyError] = []
        self.lost = 0
        self.finisher = Finisher(
            KEYS, "p", "$LATEST", "i", self.leases, Console("f", "i"), self.faults.append, self._note_lost
        )

    def _note_lost(self) -> None:
        self.lost += 1

    def hold(self, kind: int) -> Call:
        record = Invocation(
            kind=KIND_SYNC if kind == SYNC else KIND_ASYNC,
            invocation_id=bytes(range(16)),
            wait_ms=1000,
            timeout_ms=3000,
            payload=b"",
            reply_address="reply:x",
            reply_token=bytes(16),
        )
        call = Call(kind, b"1-0", record, b"t" * 16, 0.0)
        self.leases.add(call)
        return call

    def flush(self) -> None:
        self.finisher.flush(cast("Any", self.link))

    def send_again(self) -> None:
        self.finisher.send_again(cast("Any", self.link))


@pytest.mark.parametrize("text", PASSING)
def test_what_a_fault_that_passes_refused_is_kept_and_sent_again(text: str) -> None:
    assert passes(ReplyError(text))
    ends = Ends()
    ends.finisher.reply(ends.hold(SYNC), b"answer")
    ends.flush()
    first = ends.link.commands

    ends.link.callback([ReplyError(text), 1, 1])

    assert ends.finisher.waits
    assert [str(fault) for fault in ends.faults] == [text]
    assert len(ends.leases) == 1, "its lease goes on"
    ends.send_again()
    assert ends.link.commands == first
    assert ends.finisher.waits, "until it is confirmed"
    ends.link.callback([1, 0, 0])
    assert not ends.finisher.waits
    assert len(ends.leases) == 0
    assert ends.leases.lost == 0, "the first attempt had taken it off the queue"


@pytest.mark.parametrize("text", ["ERR unknown command", "WRONGTYPE Operation against a key", "NOGROUP No such key"])
def test_a_fault_that_does_not_pass_is_not_sent_for_ever(text: str) -> None:
    assert not passes(ReplyError(text))


def test_what_was_finished_without_a_connection_waits_for_the_next() -> None:
    ends = Ends()
    ends.finisher.finish_async(ends.hold(ASYNC), DONE, frame=b"frame")
    ends.link.up = False
    ends.flush()
    assert ends.finisher.waits

    ends.send_again()
    ends.link.callback([[0]])

    assert not ends.finisher.waits
    assert ends.leases.lost == 1, "it is the first time that Redis heard of it"


def test_a_connection_that_breaks_before_it_confirmed_leaves_nothing_out() -> None:
    ends = Ends()
    ends.finisher.finish_async(ends.hold(ASYNC), DONE, frame=b"frame")
    ends.flush()

    ends.link.callback(None)

    assert (ends.lost, ends.finisher.waits) == (1, True)
    ends.send_again()
    ends.link.callback([[0]])
    assert (ends.finisher.waits, ends.leases.lost) == (False, 0)


def test_answers_to_calls_that_are_not_ours_any_more_are_counted() -> None:
    ends = Ends()
    ends.finisher.reply(ends.hold(SYNC), b"answer")
    ends.flush()

    ends.link.callback([1, 0, 0])

    assert ends.leases.lost == 1


def test_an_event_that_is_handed_back_is_no_end() -> None:
    ends = Ends()
    ends.finisher.release(ends.hold(ASYNC))
    ends.flush()

    assert RELEASED.encode() in ends.link.commands[0]
    assert sum(ends.finisher.async_outcomes.values()) == 0


def test_entries_that_an_instance_reads_after_a_long_pause_are_listed_again_before_any_is_run() -> None:
    loop = Loop()
    named = {"prefix": "p", "namespace": "default", "name": "f", "uid": "u", "version": "$LATEST", "instance_id": "i"}
    nobody: Any = None
    ran: list[Call] = []
    owner = SimpleNamespace(run=ran.extend)
    settings: Any = SimpleNamespace(**named)
    reader = QueueReader(loop, settings, RedisCredentials({}), Console("f", "i"), Leases(), nobody, cast("Any", owner))
    link = RecordingLink()
    reader.link = cast("Any", link)
    reader.set_clock(0.0, 0.0)
    record = Invocation(
        kind=KIND_ASYNC, invocation_id=bytes(16), wait_ms=2**32 - 1, timeout_ms=3000, payload=b"", first_accepted_ms=1
    )
    entries = [[KEYS.async_("$LATEST").encode(), [[b"1-0", [b"r", record.encode()]]]]]

    reader.send(Read(BOTH, 1, 5000))
    loop.now += STALE_S + 1
    link.callback([entries])

    assert not ran
    assert link.commands[0][-1] == b"0", "what is still ours is asked for"
    link.callback([entries])
    assert [call.entry_id for call in ran] == [b"1-0"]
