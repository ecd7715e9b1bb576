"""`python -m forebay_controller --config FILE`: on one machine, or on a cluster when the file says so."""

import argparse
import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import uvloop
from redis.exceptions import RedisError

from forebay_common import logs
from forebay_controller.config import ControllerConfig, read_document


def main() -> int:
    """Run a controller until it is told to stop. Returns the exit status: 2 when it cannot start."""
    parser = argparse.ArgumentParser(prog="forebay_controller", description="The controller of a Forebay installation.")
    parser.add_argument("--config", type=Path, required=True, help="the controller's configuration, a JSON file")
    arguments = parser.parse_args()
    logs.configure("controller")
    log = logs.get("forebay_controller")
    try:
        document = read_document(arguments.config)
        return uvloop.run(_on_cluster(document) if "cluster" in document else _on_one_machine(document))
    except (OSError, ValueError, RedisError) as error:
        log.error("the controller cannot start: %s", error)  # noqa: TRY400 - the operator's mistake, no trace
        return 2


# Each imports what the other need not have installed.


def _on_one_machine(document: dict[str, Any]) -> Coroutine[Any, Any, int]:
    from forebay_controller.main import serve  # noqa: PLC0415

    config = ControllerConfig.from_json(document)
    logs.configure("controller", config.log_level)
    return serve(config)


def _on_cluster(document: dict[str, Any]) -> Coroutine[Any, Any, int]:
    from forebay_controller.cluster.config import ClusterConfig  # noqa: PLC0415
    from forebay_controller.cluster.serve import serve  # noqa: PLC0415

    config = ClusterConfig.from_json(document)
    logs.configure("controller", config.log_level)
    return serve(config)


if __name__ == "__main__":
    sys.exit(main())
