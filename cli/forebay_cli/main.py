"""The `forebay` command: its commands and options.

Each command's work is imported when it runs, so that starting is quick.
"""

import sys
from pathlib import Path
from typing import Annotated

import typer

from forebay_cli import defaults, destination_commands, event_commands, up_arguments
from forebay_cli.errors import UserError
from forebay_cli.options import Name, Namespace, OutputOption, client_of, complete_name
from forebay_cli.output import Output
from forebay_common import limits

app = typer.Typer(
    name="forebay",
    help="Functions on your own machine or cluster: Lambda's handlers, a queue in front, instances that pull.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(event_commands.invocation, name="invocation")
app.add_typer(event_commands.dead_letters, name="dead-letters")
app.add_typer(destination_commands.destinations, name="destinations")


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
    host: up_arguments.Host = defaults.HOST,
    port: up_arguments.Port = defaults.PORT,
    data_dir: up_arguments.DataDir = None,
    redis: up_arguments.RedisUrl = None,
    durability: up_arguments.Durability = defaults.DURABILITY,
    async_retry_delays: up_arguments.AsyncRetryDelays = defaults.ASYNC_RETRY_DELAYS,
    result_retention: up_arguments.ResultRetention = limits.RESULT_RETENTION_S,
    idempotency_retention: up_arguments.IdempotencyRetention = limits.IDEMPOTENCY_RETENTION_S,
    watch: up_arguments.Watch = None,
    allowed_host: up_arguments.AllowedHost = None,
    auth: up_arguments.Auth = None,
    allow_remote: up_arguments.AllowRemote = False,
    outbound_allow: up_arguments.OutboundAllow = None,
    outbound_allow_http: up_arguments.OutboundAllowHttp = False,
    log_level: up_arguments.LogLevel = "info",
    verbose: up_arguments.Verbose = False,
) -> None:
    """Start the platform on this machine; Ctrl-C stops it."""
    from forebay_cli.embedded_valkey import parse_redis_url  # noqa: PLC0415
    from forebay_cli.folders import default_data_dir  # noqa: PLC0415
    from forebay_cli.up import run  # noqa: PLC0415
    from forebay_cli.up_options import (  # noqa: PLC0415
        UpOptions,
        check_durability,
        check_log_level,
        parse_auth,
        parse_outbound_allow,
        parse_retry_delays,
    )

    run(
        UpOptions(
            data_dir=(data_dir or default_data_dir()).expanduser().resolve(),
            host=host,
            port=port,
            redis=None if redis is None else parse_redis_url(redis),
            durability=check_durability(durability, embedded=redis is None),
            retry_delays_s=parse_retry_delays(async_retry_delays),
            result_retention_s=result_retention,
            idempotency_retention_s=idempotency_retention,
            watch=None if watch is None else watch.resolve(),
            allowed_hosts=tuple(allowed_host or ()),
            auth=parse_auth(auth),
            allow_remote=allow_remote,
            outbound_allow=parse_outbound_allow(outbound_allow or ()),
            outbound_allow_http=outbound_allow_http,
            log_level=check_log_level(log_level),
            verbose=verbose,
        )
    )


@app.command()
def login(
    url: Annotated[str, typer.Argument(help="Where the platform is, as https://forebay.example.com.")],
    *,
    api_key: Annotated[
        str | None, typer.Option(help="ACCESSKEYID.SECRETACCESSKEY.", show_default="asked for, or read from stdin")
    ] = None,
    namespace: Namespace = None,
) -> None:
    """Keep a platform's URL and an API key for the commands to come."""
    from forebay_cli import login as work  # noqa: PLC0415

    work.login(url, api_key, namespace)


@app.command()
def logout() -> None:
    """Forget what login kept."""
    from forebay_cli import login as work  # noqa: PLC0415

    work.logout()


@app.command()
def deploy(
    name: Name,
    path: Annotated[Path | None, typer.Argument(help="A .py file, a folder or a .zip.")] = None,
    *,
    image: Annotated[str | None, typer.Option(help="A container image in place of a path (on Kubernetes).")] = None,
    handler: Annotated[str | None, typer.Option(help="MODULE.FUNCTION.", show_default="guessed from the files")] = None,
    runtime: Annotated[
        str | None, typer.Option(help="python3.X or provided.al2023.", show_default="this Python's version")
    ] = None,
    timeout: Annotated[int | None, typer.Option(help="Seconds one call may run.", show_default="3")] = None,
    memory: Annotated[int | None, typer.Option(help="MB of memory.", show_default="128")] = None,
    env: Annotated[list[str] | None, typer.Option(help="NAME=VALUE for the function (repeatable).")] = None,
    min_instances: Annotated[
        int | None, typer.Option(help="Instances kept without any call.", show_default="0")
    ] = None,
    max_instances: Annotated[int | None, typer.Option(help="Instances at most.", show_default="20")] = None,
    concurrency: Annotated[
        int | None, typer.Option(help="Calls one instance runs at a time.", show_default="1")
    ] = None,
    idle_seconds: Annotated[
        float | None, typer.Option(help="How long an idle instance is kept.", show_default="60")
    ] = None,
    allow_origin: Annotated[
        list[str] | None, typer.Option(help="A web page's origin that may call it over HTTP (repeatable).")
    ] = None,
    auth: Annotated[
        str | None, typer.Option(help="key: who calls it needs a key; none: anybody may.", show_default="key")
    ] = None,
    egress: Annotated[
        str | None,
        typer.Option(
            help="What it may reach (on Kubernetes): internet, none, cluster, CIDR, CIDR:PORT, or several with commas.",
            show_default="internet",
        ),
    ] = None,
    async_retries: Annotated[
        int | None, typer.Option(help="Retries of an async event after an error.", show_default="2")
    ] = None,
    async_max_age: Annotated[
        int | None, typer.Option(help="Seconds after which an async event is given up.", show_default="21600")
    ] = None,
    retry_delays: Annotated[
        str | None, typer.Option(help="Seconds before each retry, as 1,2.", show_default="the platform's")
    ] = None,
    on_success: Annotated[
        str | None,
        typer.Option(help="Where successes of async events are reported: function:NAME, stream:NAME, a URL; or none."),
    ] = None,
    on_failure: Annotated[
        str | None, typer.Option(help="The same of async events that are given up.", show_default="the dead letters")
    ] = None,
    namespace: Namespace = None,
) -> None:
    """Create a function, or update it, from a file, a folder, a zip or an image."""
    from forebay_cli import function_commands  # noqa: PLC0415
    from forebay_cli.deploy import DeployOptions, parse_env  # noqa: PLC0415
    from forebay_cli.up_options import parse_retry_delays  # noqa: PLC0415

    options = DeployOptions(
        handler, runtime, timeout, memory, parse_env(env or []), min_instances, max_instances, concurrency,
        idle_seconds, tuple(allow_origin or ()), image, auth, egress, async_retries, async_max_age,
        parse_retry_delays(retry_delays, "--retry-delays") if retry_delays is not None else (), on_success, on_failure,
    )  # fmt: skip
    with client_of(namespace) as client:
        function_commands.deploy_and_tell(client, name, path, options)


@app.command()
def invoke(
    name: Name,
    *,
    data: Annotated[str | None, typer.Option("--data", "-d", help="The event: JSON, @FILE, or - for stdin.")] = None,
    asynchronous: Annotated[bool, typer.Option("--async", help="Do not wait: print the invocation id.")] = False,
    log: Annotated[bool, typer.Option("--log", help="Show the end of its log on stderr.")] = False,
    namespace: Namespace = None,
) -> None:
    """Call a function; exit code 1 when it failed."""
    from forebay_cli import function_commands  # noqa: PLC0415

    payload = function_commands.read_payload(data)
    with client_of(namespace) as client:
        raise typer.Exit(function_commands.invoke(client, name, payload, asynchronous=asynchronous, log=log))


@app.command("list")
def list_(*, output: OutputOption = Output.TABLE, namespace: Namespace = None) -> None:
    """Show all functions."""
    from forebay_cli import function_commands  # noqa: PLC0415

    with client_of(namespace) as client:
        function_commands.list_functions(client, output)


@app.command()
def get(name: Name, *, output: OutputOption = Output.TABLE, namespace: Namespace = None) -> None:
    """Show one function's settings."""
    from forebay_cli import function_commands  # noqa: PLC0415

    with client_of(namespace) as client:
        function_commands.get_function(client, name, output)


@app.command()
def logs(
    name: Name,
    *,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with new lines until interrupted.")] = False,
    lines: Annotated[int, typer.Option("--lines", "-l", help="How many of the last lines.", min=0)] = 100,
    namespace: Namespace = None,
) -> None:
    """Show what a function logged."""
    from forebay_cli import function_commands  # noqa: PLC0415

    with client_of(namespace) as client:
        function_commands.show_logs(client, name, lines=lines, follow=follow)


@app.command()
def delete(
    name: Name,
    *,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    namespace: Namespace = None,
) -> None:
    """Delete a function and its queued events."""
    from forebay_cli import function_commands  # noqa: PLC0415

    with client_of(namespace) as client:
        function_commands.delete_function(client, name, confirmed=yes)


@app.command()
def status(
    name: Annotated[str | None, typer.Argument(help="One function only.", autocompletion=complete_name)] = None,
    *,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Keep showing it until interrupted.")] = False,
    output: OutputOption = Output.TABLE,
    namespace: Namespace = None,
) -> None:
    """Show queues and instances."""
    from forebay_cli import status_view  # noqa: PLC0415

    with client_of(namespace) as client:
        if watch:
            status_view.watch(client, name)
        else:
            status_view.show(client, name, output)


@app.command()
def demo() -> None:
    """See it work: start a platform, deploy, call, burst, 0 to N to 0 instances, stop."""
    from forebay_cli.demo import run  # noqa: PLC0415

    run()


if __name__ == "__main__":
    main()
