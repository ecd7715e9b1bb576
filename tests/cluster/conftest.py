"""The cluster that these tests run on: the one that FOREBAY_E2E_KUBECONFIG names, else a node of this machine."""

import os
import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster import platform_images
from cluster.access import Cluster, clients_in, clients_of_this_machine
from cluster.node import lifecycle
from cluster.node.layout import ADMIN_KUBECONFIG, PROGRAMS
from cluster.node.report import NodeError, Progress, to_stderr
from cluster.reach import PortForwards, ServiceAddresses
from cluster.release import Release

KUBECONFIG_VARIABLE = "FOREBAY_E2E_KUBECONFIG"
IMAGES_VARIABLE = "FOREBAY_E2E_IMAGES"
OURS = KUBECONFIG_VARIABLE not in os.environ  # whether the cluster is the node made here
# These tests change the release that the others use, or end it: they come last, in this order.
LAST = ("test_failures.py", "test_upgrade.py", "test_uninstall.py", "test_external_redis.py")
# The first test's time includes building and starting the node.
TEST_TIMEOUT_S = 1500

# These are about the node that is made here, not about any cluster.
collect_ignore = [] if OURS else ["test_node.py", "test_chart_optional_kinds.py"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give the tests here a time limit that includes making the cluster, and bring them into their order."""
    here = Path(__file__).parent
    for item in items:
        if item.path.is_relative_to(here):
            item.add_marker(pytest.mark.timeout(TEST_TIMEOUT_S))
    items.sort(key=lambda item: LAST.index(item.path.name) if item.path.name in LAST else -1)


@pytest.fixture(scope="session")
def progress(request: pytest.FixtureRequest) -> Progress:
    """Says what is done while nothing else is to be seen, past pytest's capturing."""
    capture = request.config.pluginmanager.getplugin("capturemanager")

    def show(line: str) -> None:
        with capture.global_and_fixture_disabled():
            to_stderr(line)

    return Progress(show)


@pytest.fixture(scope="session")
def cluster(progress: Progress) -> Iterator[Cluster]:
    """One cluster for all tests; a node that ran before stays, one that was started here is removed."""
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


@pytest.fixture(scope="session")
def images(cluster: Cluster, progress: Progress) -> str:
    """Have all images where the cluster finds them; gives what their names begin with, "" on the node made here."""
    if OURS:
        platform_images.ensure_loaded(progress)
        return ""
    given = os.environ.get(IMAGES_VARIABLE)
    if given is None:
        names = " ".join(source.name for source in platform_images.sources())
        pytest.exit(f"set {IMAGES_VARIABLE} to the registry of these images, or to loaded: {names}", returncode=1)
    return "" if given == "loaded" else f"{given}/"


@pytest.fixture(scope="session")
def release(cluster: Cluster, images: str, progress: Progress) -> Iterator[Release]:
    """The chart, installed once for all tests that need the platform, and removed after them."""
    reach = ServiceAddresses(cluster) if OURS else PortForwards(cluster)
    settings = (f"--set=image.registry={images.rstrip('/')}",) if images else ()
    installed = Release(cluster, reach, settings)
    progress.step("installing the chart")
    try:
        installed.install()
        progress.step(f"installed in {installed.ready_s:.1f} s")
        yield installed
    finally:
        progress.step("uninstalling the chart")
        installed.uninstall()
        reach.close()


@pytest.fixture
def namespace(cluster: Cluster, request: pytest.FixtureRequest) -> Iterator[str]:
    """A namespace of the test's own, removed after it without waiting for its pods."""
    yield from _namespace(cluster, request)


@pytest.fixture
def tenant(cluster: Cluster, release: Release, request: pytest.FixtureRequest) -> Iterator[str]:
    """Likewise for Functions: Kubernetes refuses every pod in it that Pod Security `restricted` does not allow."""
    yield from _namespace(cluster, request, "pod-security.kubernetes.io/enforce=restricted")


def _namespace(cluster: Cluster, request: pytest.FixtureRequest, *labels: str) -> Iterator[str]:
    # Part of a test's name is enough to find its namespace; the digits tell it from that of an earlier run.
    stem = request.node.name.removeprefix("test_").partition("[")[0].replace("_", "-")[:30].strip("-")
    name = f"{stem}-{secrets.token_hex(3)}"
    cluster.kubectl("create", "namespace", name)
    if labels:
        cluster.kubectl("label", "namespace", name, *labels)
    cluster.kubectl("wait", "--for=create", "serviceaccount/default", f"--namespace={name}", "--timeout=30s")
    yield name
    cluster.kubectl("delete", "namespace", name, "--wait=false")
