import io
import json
import logging
from collections.abc import Iterator

import pytest

from forebay_common import logs


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    output = io.StringIO()
    logs.configure("gateway", "info", output)
    yield output
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(capture=False)


def test_a_log_line_is_one_json_object_with_its_extra_fields(stream: io.StringIO) -> None:
    logs.get("a.module").info("took %d calls", 3, extra={"invocation_id": "0b1c", "entry_id": b"1-1"})
    logs.get("a.module").debug("not shown")
    [line] = map(json.loads, stream.getvalue().splitlines())
    assert line.pop("time").endswith("+00:00")
    assert line == {
        "level": "info",
        "component": "gateway",
        "logger": "a.module",
        "message": "took 3 calls",
        "invocation_id": "0b1c",
        "entry_id": "1-1",
    }


def test_an_exception_stays_on_its_line(stream: io.StringIO) -> None:
    try:
        int("first\nsecond")
    except ValueError:
        logs.get("a.module").exception("it failed")
    [line] = map(json.loads, stream.getvalue().splitlines())
    assert line["exception"].endswith(r"ValueError: invalid literal for int() with base 10: 'first\nsecond'")


def test_an_unknown_level_is_refused() -> None:
    with pytest.raises(ValueError, match="LOUD"):
        logs.configure("gateway", "loud")
