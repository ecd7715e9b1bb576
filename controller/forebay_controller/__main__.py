"""`python -m forebay_controller --config FILE`."""

import argparse
import sys
from pathlib import Path

import uvloop
from redis.exceptions import RedisError

from forebay_common import logs
from forebay_controller.config import read_config
from forebay_controller.main import serve


def main() -> int:
    """Run a controller until it is told to stop. Returns the exit status: 2 when it cannot start."""
    parser = argparse.ArgumentParser(prog="forebay_controller", description="The controller of a Forebay installation.")
    parser.add_argument("--config", type=Path, required=True, help="the controller's configuration, a JSON file")
    arguments = parser.parse_args()
    logs.configure("controller")
    log = logs.get("forebay_controller")
    try:
        config = read_config(arguments.config)
        logs.configure("controller", config.log_level)
        return uvloop.run(serve(config))
    except (OSError, ValueError, RedisError) as error:
        log.error("the controller cannot start: %s", error)  # noqa: TRY400 - the operator's mistake, no trace
        return 2


if __name__ == "__main__":
    sys.exit(main())
