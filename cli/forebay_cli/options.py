"""Options and arguments that several commands have, and the client that they lead to."""

from contextlib import suppress
from typing import TYPE_CHECKING, Annotated

import typer

from forebay_cli import defaults
from forebay_cli.errors import UserError
from forebay_cli.output import Output

if TYPE_CHECKING:
    from forebay_cli.client import Client


def client_of(namespace: str | None = None) -> "Client":
    """The platform that is meant, and a namespace of it."""
    from forebay_cli import connection  # noqa: PLC0415
    from forebay_cli.client import Client  # noqa: PLC0415

    return Client(connection.current(namespace))


def complete_name(context: typer.Context, incomplete: str) -> list[str]:
    """Function names for the shell's completion; none when the platform cannot be asked."""
    with suppress(UserError), client_of(context.params.get("namespace")) as client:
        return [function["name"] for function in client.functions() if function["name"].startswith(incomplete)]
    return []


Name = Annotated[str, typer.Argument(help="The function's name.", autocompletion=complete_name)]
Namespace = Annotated[
    str | None,
    typer.Option("--namespace", "-n", help="The namespace that is meant.", show_default=defaults.NAMESPACE_VARIABLE),
]
OutputOption = Annotated[Output, typer.Option("--output", "-o", help="table, or json for programs.")]
