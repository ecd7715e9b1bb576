"""`forebay up`: what it says, around the supervisor that does it."""

from __future__ import annotations

import asyncio
import json
import shlex
import sys
import time
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from forebay_cli import defaults, example_functions
from forebay_cli.plain_http import get
from forebay_cli.supervisor import Supervisor
from forebay_cli.up_options import REGION, UpOptions, check_platform
from forebay_common import __version__
from forebay_controller.local_keys import FILE as KEYS_FILE

if TYPE_CHECKING:
    from forebay_controller.key_pairs import KeyPair

PLACEHOLDER_KEY = "forebay"
"""AWS clients insist on keys; the platform on one machine takes any."""


def run(options: UpOptions) -> None:
    """Run the platform until it is told to stop. Raises UserError when it cannot start."""
    check_platform()
    began = time.monotonic()
    say = to_stderr

    async def on_ready(supervisor: Supervisor) -> None:
        print(await banner(supervisor, time.monotonic() - began), flush=True)

    asyncio.run(Supervisor(options, say=say, on_ready=on_ready).run())
    say("stopped; nothing is left running")


def to_stderr(line: str) -> None:
    """Show one line at once."""
    with suppress(BrokenPipeError):  # whoever read our output has left; the platform goes on
        print(line, file=sys.stderr, flush=True)


def aws_environment(url: str, admin: KeyPair | None = None) -> dict[str, str]:
    """What points AWS clients at a Forebay; `admin` None: where any keys will do."""
    return {
        "AWS_ENDPOINT_URL_LAMBDA": url,
        "AWS_REGION": REGION,
        "AWS_DEFAULT_REGION": REGION,  # the name that every client, old and new, reads
        "AWS_ACCESS_KEY_ID": PLACEHOLDER_KEY if admin is None else admin.access_key_id,
        "AWS_SECRET_ACCESS_KEY": PLACEHOLDER_KEY if admin is None else admin.secret_access_key,
    }


async def banner(supervisor: Supervisor, took_s: float) -> str:
    """The words that tell how to use what has just become ready."""
    isolation = await isolation_of_functions(supervisor)
    admin = None if supervisor.keys is None else supervisor.keys.admin
    environment = aws_environment(supervisor.url, admin)
    endpoint = environment.pop("AWS_ENDPOINT_URL_LAMBDA")
    rest = " ".join(f"{name}={value}" for name, value in environment.items())
    return f"""
Forebay {__version__} is ready at {supervisor.url} ({took_s:.1f} s)

{"" if admin is None else how_to_be_let_in(supervisor, admin)}{await how_to_call(supervisor)}

  AWS clients (boto3, aws) find it by:
    export AWS_ENDPOINT_URL_LAMBDA={endpoint}
    export {rest}

  functions  {isolation}
  data       {supervisor.options.data_dir}
  Ctrl-C stops it.
"""


def how_to_be_let_in(supervisor: Supervisor, admin: KeyPair) -> str:
    """What a person sets so that the lines below it work."""
    file = supervisor.options.data_dir / KEYS_FILE
    return f"""  Every call needs a key. This one may do everything ({file} keeps it):
    export {defaults.ENDPOINT_VARIABLE}={supervisor.url} {defaults.API_KEY_VARIABLE}={admin.api_key}

"""


async def how_to_call(supervisor: Supervisor) -> str:
    """A curl to copy: of a function that is there, else of the example, with the line that deploys it."""
    if supervisor.options.watch is not None:
        return f"  watching {supervisor.options.watch}: a curl for each function follows"
    names = await function_names(supervisor)
    key = "" if supervisor.keys is None else f'-H "X-Api-Key: ${defaults.API_KEY_VARIABLE}" '
    if names:
        return f"  curl {key}{supervisor.url}/fn/{'hello' if 'hello' in names else names[0]}"
    told = supervisor.port == defaults.PORT or supervisor.keys is not None
    endpoint = "" if told else f"{defaults.ENDPOINT_VARIABLE}={supervisor.url} "
    path = shlex.quote(str(relative(example_functions.folder() / "hello")))
    return f"  {endpoint}forebay deploy hello {path}\n  curl {key}{supervisor.url}/fn/hello"


def relative(path: Path) -> Path:
    """A path as short as it can be written from here."""
    with suppress(ValueError):
        return path.relative_to(Path.cwd())
    return path


async def function_names(supervisor: Supervisor) -> list[str]:
    """Names of the functions the platform has; [] when it does not say."""
    with suppress(ConnectionError, ValueError, KeyError, TypeError):
        api_key = "local" if supervisor.keys is None else supervisor.keys.admin.api_key
        _, body = await get("/v1/functions", unix_socket=str(supervisor.controller_socket), api_key=api_key)
        return [function["name"] for function in json.loads(body)["functions"]]
    return []


async def isolation_of_functions(supervisor: Supervisor) -> str:
    """Which isolation functions get on this machine, as the sandbox itself finds it."""
    found = find_spec("forebay_handlers")
    assert found is not None
    assert found.submodule_search_locations is not None
    sandbox = Path(found.submodule_search_locations[0]) / "sandbox.py"
    answer = await supervisor.ask("probe", [sys.executable, "-I", "-S", str(sandbox), "--probe"])
    with suppress(ValueError, KeyError, TypeError):
        found_out = json.loads(answer)
        if found_out["namespaces"]:
            return "run in their own mount, process and user namespaces"
        return f"run in process groups of this machine, not in namespaces ({found_out['reason']})"
    return "run in process groups of this machine, not in namespaces (the probe failed)"
