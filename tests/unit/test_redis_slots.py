import pytest

from forebay_common.redis_slots import ASK, MOVED, read_slots, redirect, slot_of


@pytest.mark.parametrize(
    ("key", "slot"),
    [
        (b"123456789", 12_739),  # the specification's own example
        (b"foo", 12_182),
        (b"{foo}:bar", 12_182),
        (b"a{foo}{bar}", 12_182),
        (b"", 0),
    ],
)
def test_slots_of_keys(key: bytes, slot: int) -> None:
    assert slot_of(key) == slot


def test_an_empty_tag_and_an_open_one_are_none() -> None:
    assert slot_of(b"{}x") != slot_of(b"{}y")
    assert slot_of(b"{x") != slot_of(b"{y")


def test_a_functions_keys_are_on_one_slot() -> None:
    base = b"forebay:{default/hello/0123}"
    assert len({slot_of(base + end) for end in (b":q:$LATEST:sync", b":body:1", b":instance:a:control", b"")}) == 1


@pytest.mark.parametrize(
    ("error", "kind", "slot", "host", "port"),
    [
        ("MOVED 3999 127.0.0.1:6381", MOVED, 3999, "127.0.0.1", 6381),
        ("ASK 3999 redis-1.example:6381", ASK, 3999, "redis-1.example", 6381),
        ("MOVED 1 fd00::1:6379", MOVED, 1, "fd00::1", 6379),
        ("MOVED 1 :6379", MOVED, 1, "", 6379),
    ],
)
def test_redirections(error: str, kind: str, slot: int, host: str, port: int) -> None:
    found = redirect(error)
    assert found is not None
    assert (found.kind, found.slot, found.host, found.port) == (kind, slot, host, port)


@pytest.mark.parametrize(
    "error", ["TRYAGAIN Multiple keys", "ERR no", "MOVED", "ASKING", "MOVED x y:1", "MOVED 1 host:x"]
)
def test_other_errors_are_no_redirections(error: str) -> None:
    assert redirect(error) is None


def test_an_answer_to_cluster_slots() -> None:
    answer = [
        [0, 5460, [b"10.0.0.1", 7000, b"id1", []], [b"10.0.0.4", 7003, b"id4", []]],
        [5461, 16383, [b"", 7001, b"id2", []]],
    ]
    first, second = read_slots(answer, "seed")
    assert (first.first, first.last, first.primary, first.replicas) == (
        0, 5460, ("10.0.0.1", 7000), [("10.0.0.4", 7003)],
    )  # fmt: skip
    assert second.primary == ("seed", 7001), "a node that does not know its own host is where it was asked"


@pytest.mark.parametrize("answer", [None, b"OK", [[1]], [[0, 1, b"x"]]])
def test_what_is_no_answer_to_cluster_slots_is_refused(answer: object) -> None:
    with pytest.raises(ValueError, match="no answer"):
        read_slots(answer, "seed")
