"""Which delays an instance is told for its function's retries."""

import pytest

from forebay_common.spec import AsyncSpec, FunctionSpec
from forebay_controller.retry_delays import retry_delays_ms


@pytest.mark.parametrize(
    ("own", "platform", "told"),
    [
        (AsyncSpec(), (60.0, 120.0), [60_000, 120_000]),
        (AsyncSpec(), (0.5,), [500, 500]),
        (AsyncSpec(max_retries=1), (60.0, 120.0), [60_000]),
        (AsyncSpec(max_retries=0), (60.0, 120.0), []),
        (AsyncSpec(retry_delays_s=(0.25, 3)), (60.0, 120.0), [250, 3_000]),
        (AsyncSpec(retry_delays_s=(7,)), (60.0, 120.0), [7_000, 7_000]),
        (AsyncSpec(max_retries=1, retry_delays_s=(7, 9)), (60.0,), [7_000]),
        (AsyncSpec(max_retries=0, retry_delays_s=(7, 9)), (60.0,), []),
    ],
)
def test_a_functions_own_delays_go_before_the_platforms(
    own: AsyncSpec, platform: tuple[float, ...], told: list[int]
) -> None:
    spec = FunctionSpec("default", "fn", "uid", "python3.13", "app.handler", "", 0, async_=own)

    assert retry_delays_ms(spec, platform) == told
