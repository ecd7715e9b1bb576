"""What a gateway decides about accepted calls without Redis: the words of its refusals, kept answers, durability."""

import json
from collections.abc import Sequence
from typing import Any

import hiredis
import pytest

from forebay_common import limits, record, tlv
from forebay_common.record import ONCE, ONCE_ACCEPTED, ONCE_DONE, ONCE_PENDING
from forebay_gateway import lambda_errors
from forebay_gateway.config import GatewayConfig
from forebay_gateway.durability import fsync_problem
from forebay_gateway.once_calls import is_settled
from forebay_gateway.queue_commands import LINE, append
from forebay_gateway.redis_faults import words_of
from forebay_gateway.redis_link import RedisUnavailable
from forebay_gateway.resp import bulk, head, pack


class TestWords:
    @pytest.mark.parametrize(
        ("text", "words"),
        [
            (
                "OOM command not allowed when used memory > 'maxmemory'. script: 41046e, on @user_script:20.",
                "out of memory",
            ),
            ("READONLY You can't write against a read only replica.", "replica"),
            ("LOADING Valkey is loading the dataset in memory", "loading"),
            ("MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.", "lost its primary"),
            ("MISCONF Redis is configured to save RDB snapshots, but …", "cannot save"),
            ("NOSCRIPT No matching script.", "scripts"),
            ("ERR something new", "Redis refused it (ERR something new)"),
        ],
    )
    def test_a_refusal_says_why_and_that_nothing_was_accepted(self, text: str, words: str) -> None:
        found = words_of(hiredis.ReplyError(text))
        assert words in found
        assert found.endswith(", so the call was not accepted")

    def test_callers_are_not_all_told_to_come_back_at_once(self) -> None:
        told = {lambda_errors.unavailable("x").retry_after_s for _ in range(200)}
        assert told == {1, 2, 3}

    def test_another_request_under_a_key_is_shaped_as_lambdas_errors_are(self) -> None:
        refusal = lambda_errors.key_reused()
        assert refusal.status == 422
        assert (b"x-amzn-errortype", b"IdempotencyKeyReusedException") in refusal.headers()
        assert set(json.loads(refusal.body())) == {"Type", "message"}


class TestKept:
    @pytest.mark.parametrize(
        ("reply", "settled"),
        [
            (ONCE.pack(bytes(16), bytes(16), ONCE_PENDING), False),
            (ONCE.pack(bytes(16), bytes(16), ONCE_DONE) + b"frame", True),
            (ONCE.pack(bytes(16), bytes(16), ONCE_ACCEPTED), True),
            (None, True),
            (hiredis.ReplyError("LOADING"), False),
            (RedisUnavailable("lost"), False),
        ],
    )
    def test_only_an_answer_or_its_absence_settles(self, reply: Any, *, settled: bool) -> None:
        assert is_settled(reply) is settled


class TestCommands:
    def packed(self, payload: bytes) -> tuple[bytes, bytes]:
        start = head(3) + bulk("X") + bulk("k") + b"$"
        made = append(b"p:{f}", start, b"record", payload, LINE, invocation_id=bytes(range(16)), body_ttl_s=60)
        return made.body, b"".join(made.entry)

    def test_a_payload_follows_its_record(self) -> None:
        body, entry = self.packed(b"\r\n7")
        assert (body, entry) == (b"", pack("X", "k", b"record\x00\r\n7"))

    def test_a_large_one_lies_under_a_key_of_the_function_that_expires(self) -> None:
        payload = b"x" * (limits.CLAIM_CHECK_BYTES + 1)
        body, entry = self.packed(payload)
        claim = f"body:{bytes(range(16)).hex()}"
        assert body == pack("SET", f"p:{{f}}:{claim}", payload, "EX", 60)
        assert entry == pack("X", "k", b"record" + tlv.pack_field(tlv.CLAIM, claim.encode()))


class TestDurability:
    @pytest.mark.parametrize(
        ("answer", "problem"),
        [
            ([b"appendonly", b"yes", b"appendfsync", b"always", b"appenddirname", b"d"], ""),
            ([b"appendonly", b"yes", b"appendfsync", b"everysec"], "Redis's appendfsync is everysec, not always"),
            (
                [b"appendonly", b"no", b"appendfsync", b"no"],
                "Redis's appendonly is no, not yes and appendfsync is no, not always",
            ),
            ([], "Redis's appendonly is not known, not yes and appendfsync is not known, not always"),
        ],
    )
    def test_what_speaks_against_fsync_is_said(self, answer: Sequence[bytes], problem: str) -> None:
        assert fsync_problem(answer) == problem

    @pytest.mark.parametrize(
        ("members", "text"),
        [
            ({"durability": "disk"}, "durability is one of process, fsync, replica, not disk"),
            ({"idempotency_retention_s": 0}, "idempotency_retention_s is 1 to 31536000, not 0"),
            ({"idempotency_retention_s": 31_536_001}, "not 31536001"),
            ({"idempotency_retention_s": "1 h"}, "not 1 h"),
        ],
    )
    def test_settings_that_are_none_are_refused(self, members: dict[str, Any], text: str) -> None:
        document = {"redis": {"unix_socket": "/s"}, "controller_socket": "/c"}
        assert GatewayConfig.from_json(document).durability == "process"
        with pytest.raises(ValueError, match=text):
            GatewayConfig.from_json(document | members)


def test_records_of_events_have_the_layout_of_all_records() -> None:
    assert record.HEADER.size - 16 == record.INVOCATION_ID_OFFSET
