"""`python -m tests.cluster install | uninstall`: the platform on the node made here, for work by hand."""

import argparse
import sys

from . import platform_images
from .access import Cluster, clients_in
from .node import lifecycle
from .node.layout import ADMIN_KUBECONFIG, PROGRAMS
from .node.report import NodeError, Progress
from .reach import ServiceAddresses
from .release import Release


def main() -> int:
    """Do what the command line says; 0 when done, 1 with one message when it cannot be done."""
    parser = argparse.ArgumentParser(prog="python -m tests.cluster", description="The platform on the node made here.")
    parser.add_argument("command", choices=("install", "uninstall"))
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="a value of the chart")
    options = parser.parse_args()
    progress = Progress()
    cluster = Cluster(ADMIN_KUBECONFIG, clients_in(PROGRAMS))
    release = Release(cluster, ServiceAddresses(cluster), tuple(f"--set={value}" for value in options.set))
    try:
        if options.command == "uninstall":
            release.uninstall()
            return 0
        lifecycle.up(progress)
        platform_images.ensure_loaded(progress)
        progress.step("installing the chart")
        release.install()
    except (NodeError, AssertionError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    progress.step(f"ready after {release.ready_s:.1f} s")
    sys.stdout.write(release.notes)
    return 0


sys.exit(main())
