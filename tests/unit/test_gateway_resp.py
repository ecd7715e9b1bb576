import pytest

from forebay_gateway.resp import pack, parse_start, split


@pytest.mark.parametrize(
    ("command", "name", "key"),
    [
        (pack("XADD", "k", "NOMKSTREAM", "*", "r", b"\r\n$9\r\n"), "XADD", b"k"),
        (pack("EVALSHA", "0" * 40, 2, "first", "second", "argument"), "EVALSHA", b"first"),
        (pack("PUBLISH", "channel", "text"), "PUBLISH", None),
        (pack("MULTI"), "MULTI", None),
        (pack("SET", b"\xff:{a}", b""), "SET", b"\xff:{a}"),
    ],
)
def test_a_commands_name_and_key(command: bytes, name: str, key: bytes | None) -> None:
    assert parse_start(command) == (name, key)
    assert parse_start(command + pack("GET", "other")) == (name, key)


def test_the_key_of_a_command_whose_end_is_not_there_yet() -> None:
    whole = pack("XADD", "stream", "NOMKSTREAM", "*", "r", b"record")
    assert parse_start(whole[: whole.index(b"NOMKSTREAM")]) == ("XADD", b"stream")


@pytest.mark.parametrize("length", range(len(pack("XADD", "stream"))))
def test_a_command_that_is_cut_before_the_end_of_its_key_is_refused(length: int) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_start(pack("XADD", "stream")[:length])


def test_commands_are_taken_apart_whatever_is_in_them() -> None:
    commands = [pack("SET", "k", b"*1\r\n$4\r\nPING\r\n"), pack("PING"), pack("EVALSHA", "0" * 40, 1, "k", b"")]
    assert split(b"".join(commands)) == commands
    assert split(b"") == []


def test_a_cut_command_is_not_taken_apart() -> None:
    with pytest.raises(ValueError, match=r"."):
        split(pack("PING") + pack("GET", "key")[:-3])
