"""Figures: rounds in rotated order, ratios inside a round, medians, spreads and verdicts."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

_T = TypeVar("_T")

HOLDS = "holds"
MISSED = "missed"
INCONCLUSIVE = "inconclusive"
HELLO_SPREAD_MAX = 0.10


@dataclass(frozen=True, slots=True)
class Figure:
    """One benchmark's result. `target` is what must hold, "" when there is none; `spread` is relative."""

    name: str
    value: float
    unit: str
    target: str
    spread: float
    verdict: str

    def as_json(self) -> dict[str, Any]:
        """The documented JSON form."""
        return asdict(self)


def spread(values: Sequence[float]) -> float:
    """Half the range over the median: how far rounds lie apart."""
    return (max(values) - min(values)) / 2 / statistics.median(values)


def judge(
    name: str, values: Sequence[float], unit: str, target: str, *, floor_spread: float = 0.0, timed: bool = True
) -> Figure:
    """The median of `values` against a target like ">= 0.35" or "<= 400".

    A timed figure is inconclusive when its floor's spread in the same run is above `HELLO_SPREAD_MAX`: then
    the machine was too busy to tell. Counts are always conclusive.
    """
    value = statistics.median(values)
    verdict = HOLDS
    if target:
        relation, bound = target.split()
        holds = value >= float(bound) if relation == ">=" else value <= float(bound)
        verdict = HOLDS if holds else MISSED
    if timed and floor_spread > HELLO_SPREAD_MAX:
        verdict = INCONCLUSIVE
    return Figure(name, round(value, 3), unit, target, round(spread(values), 3), verdict)


def rotated_rounds(rounds: int, contenders: Mapping[str, Callable[[], _T]]) -> dict[str, list[_T]]:
    """Run every contender once a round, each round starting with another one."""
    results: dict[str, list[_T]] = {name: [] for name in contenders}
    names = list(contenders)
    for number in range(rounds):
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:
            results[name].append(contenders[name]())
    return results
