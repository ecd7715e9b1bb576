"""The cluster that these tests run on: the one that FOREBAY_E2E_KUBECONFIG names, else a node of this machine."""

import os
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from cluster.node import build, lifecycle
from cluster.node.layout import ADMIN_KUBECONFIG
from cluster.node.report import Progress, to_stderr

KUBECONFIG_VARIABLE = "FOREBAY_E2E_KUBECONFIG"
# The first test's time includes building and starting the node.
TEST_TIMEOUT_S = 1500
COMMAND_TIMEOUT_S = 120

# These are about the node that is made here, not about any cluster.
collect_ignore = ["test_node.py"] if KUBECONFIG_VARIABLE in os.environ else []


@dataclass(frozen=True)
class Cluster:
    """A cluster to test on, by its administrator's kubeconfig, with the client programs that fit it."""

    kubeconfig: Path
    programs: Path

    def kubectl(self, *arguments: str, stdin: str | None = None) -> str:
        """Run kubectl and give its output; fails the test with what it said."""
        done = self.run("kubectl", *arguments, stdin=stdin)
        assert done.returncode == 0, f"kubectl {' '.join(arguments)}: {done.stderr}"
        return done.stdout

    def helm(self, *arguments: str) -> str:
        """Run helm likewise."""
        done = self.run("helm", *arguments)
        assert done.returncode == 0, f"helm {' '.join(arguments)}: {done.stderr}"
        return done.stdout

    def run(self, program: str, *arguments: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
        """Run kubectl or helm, whatever its exit code."""
        command: Sequence[str | Path] = [self.programs / program, *arguments]
        environment = {**os.environ, "KUBECONFIG": str(self.kubeconfig)}
        return subprocess.run(
            command,
            env=environment,
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
            timeout=COMMAND_TIMEOUT_S,
        )


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
    if given:
        yield Cluster(Path(given), build.programs(progress))
        return
    ran_before = lifecycle.running()
    try:
        lifecycle.up(progress)
        yield Cluster(ADMIN_KUBECONFIG, build.programs(progress))
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
