"""The command: `python -m tests.cluster.node up | down | status | kubeconfig | image`."""

import argparse
import sys
from pathlib import Path

from . import images, lifecycle, prerequisites
from .layout import ADMIN_KUBECONFIG
from .report import NodeError, Progress


def main() -> int:
    """Do what the command line says; 0 when done, 1 with one message when it cannot be done."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.cluster.node", description="A one-node Kubernetes for tests."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("up", help="bring the node up; a running one is left as it is")
    commands.add_parser("down", help="remove the node and everything it made on this machine")
    commands.add_parser("status", help="say what runs; exit code 1 when there is no whole node")
    commands.add_parser("kubeconfig", help="print the path of the administrator's kubeconfig")
    build = commands.add_parser("image", help="build an image from a Dockerfile and load it into the running node")
    build.add_argument("name", help="with registry and tag, such as docker.io/library/example:1.0")
    build.add_argument("dockerfile", type=Path)
    build.add_argument("context", type=Path)
    options = parser.parse_args()
    try:
        return _run(options, Progress())
    except NodeError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    except KeyboardInterrupt:
        return 130


def _run(options: argparse.Namespace, progress: Progress) -> int:
    if options.command == "up":
        lifecycle.up(progress)
    elif options.command == "down":
        lifecycle.down(progress)
    elif options.command == "image":
        prerequisites.check(progress)
        images.build_and_load(options.name, options.dockerfile, options.context, progress)
    elif options.command == "status":
        sys.stdout.write("\n".join(lifecycle.describe()) + "\n")
        return 0 if lifecycle.running() else 1
    else:
        if not lifecycle.running():
            raise NodeError("no node is up: python -m tests.cluster.node up")
        sys.stdout.write(f"{ADMIN_KUBECONFIG}\n")
    return 0


sys.exit(main())
