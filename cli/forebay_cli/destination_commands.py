"""`forebay destinations …`: what belongs to a function's destinations and is no setting of it."""

import typer

from forebay_cli.options import Name, Namespace, client_of

destinations = typer.Typer(help="Where the ends of async events are reported.", no_args_is_help=True)


@destinations.callback()
def _destinations() -> None:
    """Keep `secret` a command of its own: a single one would take the group's place."""


@destinations.command("secret")
def secret(name: Name, *, namespace: Namespace = None) -> None:
    """Print the secret that a receiver checks the signatures of a function's posts by."""
    with client_of(namespace) as client:
        print(client.signing_secret(name))
