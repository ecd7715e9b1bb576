"""`python -m forebay_gateway --config FILE`."""

import argparse
import sys
from pathlib import Path

import uvloop

from forebay_common import logs
from forebay_gateway.config import read_config
from forebay_gateway.server import listen, raise_file_limit, serve


def main() -> int:
    """Run a gateway until it is told to stop. Returns the exit status: 2 for a wrong configuration or address."""
    parser = argparse.ArgumentParser(prog="forebay_gateway", description="The gateway of a Forebay installation.")
    parser.add_argument("--config", type=Path, required=True, help="the gateway's configuration, a JSON file")
    arguments = parser.parse_args()
    logs.configure("gateway")
    log = logs.get("forebay_gateway")
    try:
        config = read_config(arguments.config)
        logs.configure("gateway", config.log_level)
        listening = {listen(config.host, port): areas for port, areas in config.ports.items()}
    except (OSError, ValueError) as error:
        log.error("the gateway cannot start: %s", error)  # noqa: TRY400 - the operator's mistake, no trace
        return 2
    raise_file_limit()
    uvloop.run(serve(config, listening))
    return 0


if __name__ == "__main__":
    sys.exit(main())
