"""The work of the commands on functions."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from forebay_cli.deploy import DeployOptions, deploy
from forebay_cli.errors import UserError
from forebay_cli.output import Output, note, show_json, show_table

if TYPE_CHECKING:
    from pathlib import Path

    from forebay_cli.client import Client

LIST_COLUMNS = ("NAME", "RUNTIME", "HANDLER", "STATE", "TIMEOUT", "MEMORY", "INSTANCES", "MODIFIED")


def deploy_and_tell(client: Client, name: str, path: Path | None, options: DeployOptions) -> None:
    """Deploy, with progress on stderr and the line that calls it on stdout."""
    function = deploy(client, name, path, options, note)
    note(f"{name} is deployed ({', '.join(_program(function))})")
    for warning in function["warnings"]:
        note(warning)
    print(how_to_call(client, name))


def how_to_call(client: Client, name: str) -> str:
    """A line to copy: curl where nobody asks for a key, which goes by HTTP, else the command, which has the key."""
    if not client.connection.api_key:
        return f"curl {client.url}/fn/{name}"
    namespace = client.connection.namespace
    return f"forebay invoke {name}{f' --namespace {namespace}' if namespace else ''}"


def _program(function: dict[str, Any]) -> tuple[str, str]:
    """What a function runs, in two words: runtime and handler, or that it is an image and which."""
    image = function.get("image")
    return ("image", image["uri"]) if image else (function["runtime"], function["handler"])


def read_payload(data: str | None) -> bytes:
    """The payload of `-d`: JSON text, `@FILE`, or `-` for stdin; empty when not given. Raises UserError."""
    if data is None:
        return b""
    if data == "-":
        return sys.stdin.buffer.read()
    if data.startswith("@"):
        try:
            with open(data[1:], "rb") as file:  # noqa: PTH123 - a Path here would be made for this alone
                return file.read()
        except OSError as error:
            raise UserError(f"-d {data}: {error.strerror}") from None
    return data.encode()


def invoke(client: Client, name: str, payload: bytes, *, asynchronous: bool, log: bool) -> int:
    """Call a function: result on stdout, log tail on stderr. Returns the exit code, 1 when the function failed."""
    outcome = client.invoke(name, payload, asynchronous=asynchronous, log=log and not asynchronous)
    if log:
        note(outcome.log_tail.decode(errors="replace").rstrip("\n"))
    if asynchronous:
        namespace = client.connection.namespace
        wait = f"forebay invocation wait {outcome.request_id}{f' --namespace {namespace}' if namespace else ''}"
        note(f"accepted; it runs once, and again if it fails. Its result: {wait}")
        print(outcome.request_id)
        return 0
    sys.stdout.flush()
    sys.stdout.buffer.write(outcome.payload + b"\n")
    sys.stdout.buffer.flush()
    if outcome.error:
        note(f"{name} failed ({outcome.error})")
    return 1 if outcome.error else 0


def list_functions(client: Client, output: Output) -> None:
    """All functions."""
    functions = client.functions()
    if output is Output.JSON:
        show_json(functions)
        return
    if not functions:
        note("no function yet: `forebay deploy NAME PATH` makes one")
        return
    show_table(LIST_COLUMNS, [_list_row(function) for function in functions])


def _list_row(function: dict[str, Any]) -> list[str]:
    scale = function["scale"]
    return [
        function["name"],
        *_program(function),
        function["state"],
        f"{function['timeout_s']} s",
        f"{function['memory_mb']} MB",
        f"{scale['min_instances']}-{scale['max_instances']}",
        function["last_modified"][:19],
    ]


def get_function(client: Client, name: str, output: Output) -> None:
    """One function's settings."""
    function = client.function(name)
    if output is Output.JSON:
        show_json(function)
        return
    show_table(("SETTING", "VALUE"), [(key, text) for key, value in function.items() for text in _texts(value)])


def _texts(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [f"{key}={item}" for key, item in value.items() if item is not None]
    return [] if value in (None, "", []) else [str(value)]


def show_logs(client: Client, name: str, *, lines: int, follow: bool) -> None:
    """A function's log lines."""
    with client.log_lines(name, lines=lines, follow=follow) as found:
        for line in found:
            print(line, flush=follow)


def delete_function(client: Client, name: str, *, confirmed: bool) -> None:
    """Delete a function, after asking on a terminal."""
    if not confirmed:
        if not sys.stdin.isatty():
            raise UserError(f"delete {name} with its queued events? Say --yes, since there is nobody to ask")
        if input(f"Delete {name} with its queued events? [y/N] ").strip().lower() not in {"y", "yes"}:
            note("nothing deleted")
            return
    client.delete_function(name)
    note(f"{name} is deleted")
