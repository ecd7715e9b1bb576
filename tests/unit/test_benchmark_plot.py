"""The drawing of a run over connections."""

import xml.etree.ElementTree as ET

import pytest
from benchmarks.plot import apart, charts_of, draw, ticks


@pytest.mark.parametrize(
    ("low", "high", "found"),
    [
        (0.06, 1.0, [0.05, 0.1, 0.2, 0.5, 1.0]),
        (2.6, 1137.0, [1, 10, 100, 1000, 10_000]),
        (1.0, 1.0, [1, 2]),
        (6.0, 70.0, [5, 10, 20, 50, 100]),
    ],
)
def test_ticks_are_round_and_hold_all_values(low: float, high: float, found: list[float]) -> None:
    assert ticks(low, high) == pytest.approx(found)


def test_labels_that_would_lie_on_each_other_are_moved_apart_in_their_order() -> None:
    assert apart([100.0, 20.0, 101.0, 99.0], 15) == [114.0, 20.0, 129.0, 99.0]


def test_a_run_is_drawn_as_two_charts_with_each_line_named_at_its_end() -> None:
    points = [
        {"contender": name, "connections": connections, "per_second": rate * connections, "p99_ms": 3.0 * connections}
        for connections in (1, 64)
        for name, rate in (("hello", 1000.0), ("forebay", 500.0))
    ]
    root = ET.fromstring(draw(charts_of(points)))
    names = [element.text for element in root.iter() if "label" in element.get("class", "").split()]
    assert names == ["hello", "forebay", "hello", "forebay"]
    assert len(root.findall("{http://www.w3.org/2000/svg}polyline")) == 4
