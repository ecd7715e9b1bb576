"""When to start a died process again: at once the first time, later the more often it dies."""

from dataclasses import dataclass

FIRST_DELAY_S = 0.1
DELAY_MAX_S = 2.0
"""Not more: a part that cannot start since another one is away must be back soon after it, and callers wait."""
STABLE_S = 30.0
"""A process that lived this long starts its count anew."""


@dataclass(slots=True)
class RestartPolicy:
    """One process's history of deaths; only the parts that have served once are started again."""

    served: bool = False
    deaths: int = 0

    def delay_s(self, *, started_at: float, now: float) -> float | None:
        """Seconds until the next start after a death at `now`; None when it never served, so that it is an error."""
        if not self.served:
            return None
        self.deaths = 1 if now - started_at >= STABLE_S else self.deaths + 1
        return min(DELAY_MAX_S, FIRST_DELAY_S * 2.0 ** (self.deaths - 1))
