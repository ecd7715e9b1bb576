"""The delays before an async event's attempts, as an instance is told them (pure)."""

from forebay_common import limits
from forebay_common.spec import FunctionSpec


def retry_delays_ms(spec: FunctionSpec, platform_delays_s: tuple[float, ...]) -> list[int]:
    """One delay for each retry the function allows: its own, else the platform's; beyond either the last repeats."""
    count = spec.async_.max_retries if spec.async_.max_retries is not None else limits.ASYNC_RETRIES_DEFAULT
    delays_s = spec.async_.retry_delays_s or platform_delays_s
    return [int(1000 * delays_s[min(index, len(delays_s) - 1)]) for index in range(count)]
