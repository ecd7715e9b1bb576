"""`python -m benchmarks.plot FILE OUT.svg`: draw what `python -m benchmarks connections --json FILE` measured.

Two charts side by side, requests a second and p99 against connections, all axes logarithmic. Requests a second are
over hello's most, since absolute figures of a shared machine mean nothing. The colours follow the reader's scheme.
"""

import argparse
import itertools
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

WIDTH_PX = 900
HEIGHT_PX = 340
_TOP_PX = 58
_PLOT_WIDTH_PX = 310
_PLOT_HEIGHT_PX = 220
_LEFTS_PX = (54, 504)
_LABEL_GAP_PX = 15
_STEPS = (1, 2, 5)
_FEW_DECADES = 2.0
"""An axis shorter than that has ticks at 2 and 5 as well."""

# One colour a contender, for light and for dark; the others are peers, and drawn alike.
_PEER = "peer"
_COLOURS = {
    "forebay": ("#1d4ed8", "#7aa2ff"),
    "naive": ("#b45309", "#f0a04b"),
    "hello": ("#1f2328", "#e6edf3"),
    _PEER: ("#8c959f", "#6e7681"),
}
_STYLE = """
text {{ font: 12px system-ui, -apple-system, "Segoe UI", sans-serif; fill: #1f2328 }}
.title {{ font-size: 14px; font-weight: 600 }}
.quiet {{ fill: #57606a }}
.grid {{ stroke: #d0d7de; stroke-width: 1 }}
.axis {{ stroke: #8c959f; stroke-width: 1 }}
.line {{ fill: none; stroke-width: 2; stroke-linejoin: round }}
.line.peer {{ stroke-width: 1.2 }}
.label {{ font-weight: 600 }}
.label.peer-fill {{ font-weight: 400 }}
{light}
@media (prefers-color-scheme: dark) {{
text {{ fill: #e6edf3 }}
.quiet {{ fill: #9aa4af }}
.grid {{ stroke: #30363d }}
.axis {{ stroke: #6e7681 }}
{dark}
}}
"""

Series = dict[str, list[tuple[float, float]]]
"""For each contender its points: connections, and the figure."""


@dataclass(frozen=True, slots=True)
class Axis:
    """A logarithmic axis from `low` to `high`, over `length_px` from `start_px`; a negative length goes upwards."""

    low: float
    high: float
    start_px: float
    length_px: float

    def at(self, value: float) -> float:
        """Where a value lies, in px."""
        return self.start_px + self.length_px * math.log(value / self.low) / math.log(self.high / self.low)


class Chart(NamedTuple):
    """What one chart shows."""

    title: str
    unit: str
    series: Series


def ticks(low: float, high: float) -> list[float]:
    """Round values on a logarithmic axis that hold `low` and `high` between the first and the last one. Pure."""
    decades = math.log10(high / low)
    steps = _STEPS if decades < _FEW_DECADES else _STEPS[:1]
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    values = [step * 10.0**power for power in range(first, last + 1) for step in steps]
    start = max(value for value in values if value <= low * 1.001)
    # Above the last step of a decade comes the next decade.
    end = min((value for value in values if value >= high * 0.999 and value > start), default=10.0 ** (last + 1))
    return [value for value in values if start <= value <= end]


def apart(wanted: Sequence[float], gap_px: float) -> list[float]:
    """Positions near the wanted ones that keep a gap: labels must not lie on each other. Pure."""
    order = sorted(range(len(wanted)), key=lambda index: wanted[index])
    placed = list(wanted)
    for before, after in itertools.pairwise(order):
        placed[after] = max(placed[after], placed[before] + gap_px)
    return placed


def charts_of(points: Sequence[dict[str, Any]]) -> list[Chart]:
    """The two charts of a run. Pure."""
    most = max(point["per_second"] for point in points if point["contender"] == "hello")
    rates: Series = {}
    p99_ms: Series = {}
    for point in points:
        name, connections = point["contender"], point["connections"]
        rates.setdefault(name, []).append((connections, point["per_second"] / most))
        p99_ms.setdefault(name, []).append((connections, point["p99_ms"]))
    return [Chart("Requests a second", "hello's most = 1", rates), Chart("p99", "ms", p99_ms)]


def draw(charts: Sequence[Chart]) -> str:
    """The charts as one SVG document. Pure."""
    style = _STYLE.format(light=_colours(0), dark=_colours(1))
    size = f'viewBox="0 0 {WIDTH_PX} {HEIGHT_PX}"'
    title = " and ".join(chart.title for chart in charts) + " against connections"
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img" aria-label="{title}">',
        f"<style>{style}</style>",
    ]
    for chart, left_px in zip(charts, _LEFTS_PX, strict=True):
        parts += _chart(chart, left_px)
    return "\n".join([*parts, "</svg>", ""])


def _colours(scheme: int) -> str:
    return "\n".join(
        f".{name} {{ stroke: {colours[scheme]} }} .{name}-fill {{ fill: {colours[scheme]} }}"
        for name, colours in _COLOURS.items()
    )


def _chart(chart: Chart, left_px: float) -> list[str]:
    xs = sorted({x for points in chart.series.values() for x, _ in points})
    values = [y for points in chart.series.values() for _, y in points]
    marks = ticks(min(values), max(values))
    bottom_px = _TOP_PX + _PLOT_HEIGHT_PX
    right_px = left_px + _PLOT_WIDTH_PX
    across = Axis(xs[0], xs[-1], left_px, _PLOT_WIDTH_PX)
    up = Axis(marks[0], marks[-1], bottom_px, -_PLOT_HEIGHT_PX)
    parts = [
        _text(left_px, 22, chart.title, "title"),
        _text(left_px, 42, chart.unit, "quiet"),
        f'<line class="axis" x1="{left_px}" y1="{bottom_px}" x2="{right_px}" y2="{bottom_px}"/>',
        _text(left_px + _PLOT_WIDTH_PX / 2, bottom_px + 42, "connections", "quiet", "middle"),
    ]
    for mark in marks:
        y_px = up.at(mark)
        if mark != marks[0]:
            parts.append(f'<line class="grid" x1="{left_px}" y1="{y_px:.1f}" x2="{right_px}" y2="{y_px:.1f}"/>')
        parts.append(_text(left_px - 8, y_px + 4, f"{mark:,.10g}", "quiet", "end"))
    parts += [_text(across.at(x), bottom_px + 20, f"{x:,.0f}", "quiet", "middle") for x in xs]
    for name, points in chart.series.items():
        colour = name if name in _COLOURS else _PEER
        places = [(across.at(x), up.at(y)) for x, y in points]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        parts.append(f'<polyline class="line {colour}" points="{path}"/>')
        radius = 2 if colour == _PEER else 3
        parts += [f'<circle class="{colour}-fill" cx="{x:.1f}" cy="{y:.1f}" r="{radius}"/>' for x, y in places]
    return parts + _labels(chart.series, across, up)


def _labels(series: Series, across: Axis, up: Axis) -> list[str]:
    """Each line's name at its end; those of lines that end at the same number of connections lie apart."""
    ends: dict[float, list[tuple[str, float]]] = {}
    for name, points in series.items():
        ends.setdefault(points[-1][0], []).append((name, up.at(points[-1][1])))
    parts = []
    for last, labels in ends.items():
        heights = apart([y for _, y in labels], _LABEL_GAP_PX)
        for (name, _), y in zip(labels, heights, strict=True):
            colour = name if name in _COLOURS else _PEER
            parts.append(_text(across.at(last) + 8, y + 4, name, f"label {colour}-fill"))
    return parts


def _text(x: float, y: float, text: str, name: str, anchor: str = "start") -> str:
    return f'<text class="{name}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{text}</text>'


def main() -> None:
    """Read the points and write the drawing."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.plot", description="Draw a run of `connections`.")
    parser.add_argument("file", type=Path, metavar="FILE", help="what `connections --json` wrote")
    parser.add_argument("out", type=Path, metavar="OUT.svg")
    options = parser.parse_args()
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(draw(charts_of(json.loads(options.file.read_bytes()))))


if __name__ == "__main__":
    main()
