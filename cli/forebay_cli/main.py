"""The `forebay` command: its commands and options.

Each command's work is imported when it runs, so that starting is quick.
"""

import sys
from pathlib import Path
from typing import Annotated

import typer

from forebay_cli import defaults
from forebay_cli.errors import UserError

app = typer.Typer(
    name="forebay",
    help="Functions on your own machine or cluster: Lambda's handlers, a queue in front, instances that pull.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def main() -> None:
    """Run the command line; a user's mistake is one line on stderr and exit code 1 (2: wrong usage)."""
    try:
        app()
    except UserError as error:
        print(f"forebay: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)


def _print_version(asked: bool) -> None:  # noqa: FBT001 - typer's callback signature
    if asked:
        from forebay_common import __version__  # noqa: PLC0415

        print(f"forebay {__version__}")
        raise typer.Exit


@app.callback()
def _forebay(
    *,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    pass


@app.command()
def up(
    *,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = defaults.HOST,
    port: Annotated[int, typer.Option(help="Port to listen on; 0 takes any free one.")] = defaults.PORT,
    data_dir: Annotated[
        Path | None,
        typer.Option(help="Where functions, events and logs are kept.", show_default="~/.local/share/forebay"),
    ] = None,
    redis: Annotated[
        str | None, typer.Option(help="Use this server, redis://HOST:PORT/0, instead of the embedded Valkey.")
    ] = None,
    async_retry_delays: Annotated[
        str, typer.Option(help="Seconds before each retry of a failed async event.")
    ] = defaults.ASYNC_RETRY_DELAYS,
    watch: Annotated[
        Path | None,
        typer.Option(
            help="Deploy every sub-folder and .py file of this folder, again at each save.",
            exists=True,
            file_okay=False,
        ),
    ] = None,
    allowed_host: Annotated[
        list[str] | None, typer.Option(help="A Host name beside loopback's that requests may carry (repeatable).")
    ] = None,
    allow_remote: Annotated[
        bool, typer.Option("--allow-remote", help="Listen beyond loopback, though there is no authentication yet.")
    ] = False,
    log_level: Annotated[str, typer.Option(help="What the platform logs: debug, info, warning or error.")] = "info",
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Show the platform's log, not warnings only.")
    ] = False,
) -> None:
    """Start the platform on this machine; Ctrl-C stops it."""
    from forebay_cli import up as command  # noqa: PLC0415
    from forebay_cli.embedded_valkey import parse_redis_url  # noqa: PLC0415
    from forebay_cli.folders import default_data_dir  # noqa: PLC0415
    from forebay_cli.up_options import UpOptions, check_log_level, parse_retry_delays  # noqa: PLC0415

    command.run(
        UpOptions(
            data_dir=(data_dir or default_data_dir()).expanduser().resolve(),
            host=host,
            port=port,
            redis=None if redis is None else parse_redis_url(redis),
            retry_delays_s=parse_retry_delays(async_retry_delays),
            watch=None if watch is None else watch.resolve(),
            allowed_hosts=tuple(allowed_host or ()),
            allow_remote=allow_remote,
            log_level=check_log_level(log_level),
            verbose=verbose,
        )
    )


if __name__ == "__main__":
    main()
