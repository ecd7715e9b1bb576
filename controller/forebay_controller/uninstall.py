"""`python -m forebay_controller.uninstall --config FILE`: what the chart runs before a release goes."""

import argparse
import asyncio
import sys
from pathlib import Path

from kubernetes.aio.config import ConfigException

from forebay_common import logs
from forebay_controller.cluster.api import ApiError, connect_api
from forebay_controller.cluster.uninstall import Installation, UninstallError, read_installation, uninstall


def main() -> int:
    """Take back what the platform made. Returns the exit status: 1 when it failed, 2 for a wrong configuration."""
    parser = argparse.ArgumentParser(
        prog="forebay_controller.uninstall", description="Takes back what a Forebay installation made for Functions."
    )
    parser.add_argument("--config", type=Path, required=True, help="the controller's configuration, a JSON file")
    arguments = parser.parse_args()
    logs.configure("uninstall")
    log = logs.get("forebay_controller")
    try:
        installation = read_installation(arguments.config)
    except (OSError, ValueError) as error:
        log.error("nothing was taken back: %s", error)  # noqa: TRY400 - the operator's mistake, no trace
        return 2
    try:
        asyncio.run(_run(installation))
    except (ApiError, UninstallError, ConfigException) as error:
        log.error("not all was taken back: %s", error)  # noqa: TRY400 - the message says what there is to know
        return 1
    return 0


async def _run(installation: Installation) -> None:
    api = await connect_api()
    try:
        await uninstall(api, installation)
    finally:
        await api.close()


if __name__ == "__main__":
    sys.exit(main())
