"""Fixtures of the integration tests: one running platform for each test process."""

from collections.abc import Iterator

import pytest

from support.platform import Platform, running_platform


@pytest.fixture(scope="session")
def platform() -> Iterator[Platform]:
    """A real `forebay up`, shared by the tests of one process: each test names its own functions."""
    with running_platform("--async-retry-delays", "0.5,1") as running:
        yield running
