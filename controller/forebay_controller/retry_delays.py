"""The delays before an async event's attempts, as an instance is told them (pure)."""

from forebay_common import limits
from forebay_common.spec import FunctionSpec


def retry_delays_ms(spec: FunctionSpec, platform_delays_s: tuple[float, ...]) -> list[int]:
    """One delay for each retry the function allows; beyond the platform's list the last one repeats."""
    count = spec.async_.max_retries if spec.async_.max_retries is not None else limits.ASYNC_RETRIES_DEFAULT
    last = platform_delays_s[-1]
    return [
        int(1000 * (platform_delays_s[index] if index < len(platform_delays_s) else last)) for index in range(count)
    ]
