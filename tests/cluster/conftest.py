"""The cluster that these tests run on: the one that FOREBAY_E2E_KUBECONFIG names, else a node of this machine."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.access import Cluster, clients_in, clients_of_this_machine
from cluster.node import lifecycle
from cluster.node.layout import ADMIN_KUBECONFIG, PROGRAMS
from cluster.node.report import NodeError, Progress, to_stderr

KUBECONFIG_VARIABLE = "FOREBAY_E2E_KUBECONFIG"
# The first test's time includes building and starting the node.
TEST_TIMEOUT_S = 1500

# These are about the node that is made here, not about any cluster.
collect_ignore = ["test_node.py"] if KUBECONFIG_VARIABLE in os.environ else []


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give the tests here a time limit that includes making the cluster."""
    here = Path(__file__).parent
    for item in items:
        if item.path.is_relative_to(here):
            item.add_marker(pytest.mark.timeout(TEST_TIMEOUT_S))


@pytest.fixture(scope="session")
def cluster(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """One cluster for all tests; a node that ran before stays, one that was started here is removed."""
    capture = request.config.pluginmanager.getplugin("capturemanager")

    def show(line: str) -> None:
        with capture.global_and_fixture_disabled():
            to_stderr(line)

    progress = Progress(show)
    given = os.environ.get(KUBECONFIG_VARIABLE)
    ran_before = given is not None or lifecycle.running()
    try:
        if given is None:
            lifecycle.up(progress)
            yield Cluster(ADMIN_KUBECONFIG, clients_in(PROGRAMS))
        else:
            yield Cluster(Path(given), clients_of_this_machine(progress))
    except NodeError as error:
        # No test here can do without one, so one message is enough.
        pytest.exit(f"no cluster to test on: {error}", returncode=1)
    finally:
        if not ran_before:
            lifecycle.down(progress)


@pytest.fixture
def namespace(cluster: Cluster, request: pytest.FixtureRequest) -> Iterator[str]:
    """A namespace of the test's own, removed after it without waiting for its pods."""
    name = request.node.name.replace("_", "-").removeprefix("test-")[:60]
    cluster.kubectl("create", "namespace", name)
    cluster.kubectl("wait", "--for=create", "serviceaccount/default", f"--namespace={name}", "--timeout=30s")
    yield name
    cluster.kubectl("delete", "namespace", name, "--wait=false")
