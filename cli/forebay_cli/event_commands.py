"""`forebay invocation …` and `forebay dead-letters …`: their options. The work is in modules of its own."""

from typing import Annotated

import typer

from forebay_cli.options import Name, Namespace, OutputOption, client_of
from forebay_cli.output import Output

invocation = typer.Typer(help="What became of async events, and calling them off.", no_args_is_help=True)
dead_letters = typer.Typer(help="Async events that were given up: look, run again, delete.", no_args_is_help=True)

InvocationId = Annotated[str, typer.Argument(metavar="ID", help="What `forebay invoke --async` printed.")]
Reason = Annotated[
    str, typer.Option(help="Only those given up for this reason, as RetriesExhausted.", show_default="any")
]
Since = Annotated[
    str, typer.Option(help="Only those that died at or after this time: 2026-11-23T02:50:36Z, or seconds since 1970.")
]
Until = Annotated[str, typer.Option(help="Only those that died at or before this time.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]


@invocation.command("get")
def get(invocation_id: InvocationId, *, output: OutputOption = Output.TABLE, namespace: Namespace = None) -> None:
    """Show an event's status, and its result or error for an hour (or as the platform is set) after its end."""
    from forebay_cli import invocations  # noqa: PLC0415

    with client_of(namespace) as client:
        invocations.show(client, invocation_id, output)


@invocation.command("wait")
def wait(
    invocation_id: InvocationId,
    *,
    timeout: Annotated[float | None, typer.Option(help="Seconds to wait at most.", min=0, show_default="none")] = None,
    namespace: Namespace = None,
) -> None:
    """Wait for an event's end and print its result; exit code 1 when it did not succeed, 3 when it has not ended."""
    from forebay_cli import invocations  # noqa: PLC0415

    with client_of(namespace) as client:
        raise typer.Exit(invocations.wait(client, invocation_id, timeout))


@invocation.command("cancel")
def cancel(invocation_id: InvocationId, *, namespace: Namespace = None) -> None:
    """Call an event off: one that waits never runs, one that runs is ended; exit code 3 when it is still running."""
    from forebay_cli import invocations  # noqa: PLC0415

    with client_of(namespace) as client:
        raise typer.Exit(invocations.cancel(client, invocation_id))


@dead_letters.command("list")
def list_(
    name: Name,
    *,
    reason: Reason = "",
    since: Since = "",
    until: Until = "",
    limit: Annotated[int, typer.Option(help="How many at most, the oldest first.", min=1)] = 50,
    output: OutputOption = Output.TABLE,
    namespace: Namespace = None,
) -> None:
    """Show a function's dead letters, the oldest first."""
    from forebay_cli import dead_letters as work  # noqa: PLC0415

    with client_of(namespace) as client:
        work.show_list(client, name, work.Filters(reason, since, until), limit, output)


@dead_letters.command("show")
def show(
    name: Name,
    dead_letter: Annotated[str, typer.Argument(metavar="ID", help="Its id, from the list.")],
    *,
    namespace: Namespace = None,
) -> None:
    """Show one dead letter as JSON: its event and its last error."""
    from forebay_cli import dead_letters as work  # noqa: PLC0415

    with client_of(namespace) as client:
        work.show_one(client, name, dead_letter)


@dead_letters.command("redrive")
def redrive(
    name: Name,
    ids: Annotated[list[str] | None, typer.Argument(metavar="ID...", help="Which, by their ids.")] = None,
    *,
    every: Annotated[bool, typer.Option("--all", help="All that fit the filters, in place of ids.")] = False,
    reason: Reason = "",
    since: Since = "",
    until: Until = "",
    namespace: Namespace = None,
) -> None:
    """Run dead letters again, with all their attempts."""
    from forebay_cli import dead_letters as work  # noqa: PLC0415

    wanted = work.Wanted(tuple(ids or ()), every, work.Filters(reason, since, until))
    with client_of(namespace) as client:
        work.redrive(client, name, wanted)


@dead_letters.command("purge")
def purge(
    name: Name,
    ids: Annotated[list[str] | None, typer.Argument(metavar="ID...", help="Which, by their ids.")] = None,
    *,
    every: Annotated[bool, typer.Option("--all", help="All of them, in place of ids.")] = False,
    yes: Yes = False,
    namespace: Namespace = None,
) -> None:
    """Delete dead letters for good."""
    from forebay_cli import dead_letters as work  # noqa: PLC0415

    with client_of(namespace) as client:
        work.purge(client, name, work.Wanted(tuple(ids or ()), every), confirmed=yes)
