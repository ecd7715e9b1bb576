"""`forebay invocation` and `forebay dead-letters` against a served management API with real queues behind it."""

import asyncio
import json
import os
from base64 import b64encode
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import httpx
import pytest
from redis.asyncio import Redis

from forebay_common.frames import FLAG_PAYLOAD_OMITTED, ReplyFrame
from forebay_common.queue import VersionQueue
from forebay_common.redis_client import command
from forebay_controller import invocation_watch
from support import queue_side
from support.event_rig import INSTANCE, Events
from support.management import HELLO, management
from support.platform import FOREBAY

pytestmark = pytest.mark.usefixtures("no_leaked_keys")

ENDS_WITHIN_S = 60
FUNCTION = {
    "runtime": "python3.13",
    "handler": "app.handler",
    "code": {"zip_base64": b64encode(HELLO).decode()},
}


@dataclass
class Cli:
    events: Events
    environment: dict[str, str]

    async def start(self, *words: str) -> asyncio.subprocess.Process:
        pipe, none = asyncio.subprocess.PIPE, asyncio.subprocess.DEVNULL
        return await asyncio.create_subprocess_exec(
            FOREBAY, *words, env=self.environment, stdin=none, stdout=pipe, stderr=pipe
        )

    async def run(self, *words: str, code: int = 0) -> tuple[str, str]:
        """What a command says on stdout and stderr."""
        return await self.ended(await self.start(*words), code=code)

    @staticmethod
    async def ended(running: asyncio.subprocess.Process, *, code: int = 0) -> tuple[str, str]:
        async with asyncio.timeout(ENDS_WITHIN_S):
            out, err = await running.communicate()
        assert running.returncode == code, (out, err)
        assert b"Traceback" not in err
        return out.decode(), err.decode()


@pytest.fixture
async def cli(redis: Redis, prefix: str, tmp_path: Path) -> AsyncIterator[Cli]:
    async with management(redis, prefix, tmp_path) as served, httpx.AsyncClient(base_url=served.url) as http:
        (await http.put("/v1/functions/hello", json=FUNCTION)).raise_for_status()
        (spec,) = served.registry.by_name()
        events = Events(redis, VersionQueue(served.registry.keys(spec)), spec.uid)
        named = {"FOREBAY_ENDPOINT": served.url, "XDG_CONFIG_HOME": str(tmp_path)}
        yield Cli(events, {**os.environ, **named})


async def test_get_shows_an_event_as_a_table_or_as_json(cli: Cli) -> None:
    ident = await cli.events.accept()
    await cli.events.run(payload=b'{"answer": 42}')
    table, _ = await cli.run("invocation", "get", ident)
    found = json.loads((await cli.run("invocation", "get", ident, "-o", "json"))[0])
    assert (found["status"], found["result"]) == ("succeeded", {"answer": 42})
    lines = [line.split(maxsplit=1) for line in table.splitlines()[1:]]
    assert ["status", "succeeded"] in [[name, value.strip()] for name, value in lines]
    assert '{"answer": 42}' in table
    assert "error" not in table


async def test_wait_prints_the_result_when_it_is_there(cli: Cli) -> None:
    ident = await cli.events.accept()
    waiting = await cli.start("invocation", "wait", ident)
    await cli.events.run(payload=b'{"text": "\\u00e4"}')
    assert await cli.ended(waiting) == ('{"text": "ä"}\n', "")


@pytest.mark.parametrize(
    ("payload", "out"), [(b'"\\ud800"', '"\\ud800"\n'), (b"null", "null\n"), (b"\x00", '"\\u0000"\n')]
)
async def test_wait_prints_any_result(cli: Cli, payload: bytes, out: str) -> None:
    ident = await cli.events.accept()
    await cli.events.run(payload=payload)
    assert await cli.run("invocation", "wait", ident) == (out, "")


async def test_wait_says_when_the_result_was_too_large_to_be_kept(cli: Cli) -> None:
    ident = await cli.events.accept()
    frame = ReplyFrame(token=bytes(16), payload=b"", flags=FLAG_PAYLOAD_OMITTED)
    entry_id = await cli.events.lease()
    await queue_side.finish_async(cli.events.redis, cli.events.queue, entry_id, INSTANCE, "done", frame=frame.encode())
    out, err = await cli.run("invocation", "wait", ident)
    assert (out, err) == ("", "it succeeded; its result was above 64 KiB and is not kept\n")


async def test_wait_fails_when_the_event_did(cli: Cli) -> None:
    ident = await cli.events.die()
    out, err = await cli.run("invocation", "wait", ident, code=1)
    assert json.loads(out)["errorType"] == "ValueError"
    assert err == "hello: the event failed (RetriesExhausted), attempts: 1\n"


async def test_wait_ends_at_its_timeout_and_says_how_to_go_on(cli: Cli) -> None:
    ident = await cli.events.accept(delay_ms=60_000)
    out, err = await cli.run("invocation", "wait", ident, "--timeout", "0.2", code=3)
    assert out == ""
    assert err.startswith("it is delayed until 20")
    assert f"`forebay invocation wait {ident}` goes on" in err
    assert (await cli.run("invocation", "wait", ident, "--timeout", "0", code=3))[1].startswith("it is delayed")


async def test_wait_goes_on_while_others_take_all_places(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(invocation_watch, "WAITING_MAX", 0)
    ident = await cli.events.accept()
    waiting = await cli.start("invocation", "wait", ident)
    await asyncio.wait({asyncio.create_task(waiting.wait())}, timeout=2.5)
    assert waiting.returncode is None
    await cli.events.run(payload=b"1")
    assert (await cli.ended(waiting))[0] == "1\n"


async def test_cancel_calls_an_event_off_that_waits(cli: Cli) -> None:
    ident = await cli.events.accept()
    assert await cli.run("invocation", "cancel", ident) == ("", "cancelled: it never ran\n")
    assert (await cli.run("invocation", "wait", ident, code=1))[1] == (
        "hello: the event was cancelled (Cancelled), attempts: 0\n"
    )


async def test_cancel_says_when_an_event_still_runs_or_has_ended(cli: Cli) -> None:
    ident = await cli.events.accept()
    await queue_side.start_instance(cli.events.redis, cli.events.queue, INSTANCE)
    entry_id = await cli.events.lease()
    assert "it is still running" in (await cli.run("invocation", "cancel", ident, code=3))[1]
    await cli.events.finish(entry_id, "done")
    assert (await cli.run("invocation", "cancel", ident, code=1))[1] == (
        f"forebay: The invocation {ident} has ended already: it succeeded\n"
    )


async def test_dead_letters_are_listed_and_shown(cli: Cli) -> None:
    assert await cli.run("dead-letters", "list", "hello") == ("", "hello has no dead letters\n")
    ident = await cli.events.die(b'{"order": 7}')
    await cli.events.die(reason="EventAgeExceeded")
    table, _ = await cli.run("dead-letters", "list", "hello")
    assert "RetriesExhausted" in table
    assert 'ValueError: no {"order": 7}' in table
    found = json.loads(
        (await cli.run("dead-letters", "list", "hello", "--reason", "EventAgeExceeded", "-o", "json"))[0]
    )
    assert len(found) == 1
    none = await cli.run("dead-letters", "list", "hello", "--until", "2020-01-01T00:00:00Z")
    assert none == ("", "hello has no dead letters that fit\n")
    (entry, _) = json.loads((await cli.run("dead-letters", "list", "hello", "-o", "json"))[0])
    shown = json.loads((await cli.run("dead-letters", "show", "hello", entry["id"]))[0])
    assert (shown["invocation_id"], shown["payload"]) == (ident, {"order": 7})


async def test_a_long_list_says_that_there_are_more(cli: Cli) -> None:
    for _ in range(3):
        await cli.events.die()
    out, err = await cli.run("dead-letters", "list", "hello", "--limit", "2")
    assert (len(out.splitlines()), err) == (3, "these are the oldest 2: --limit shows more\n")
    out, err = await cli.run("dead-letters", "list", "hello", "--limit", "3")
    assert (len(out.splitlines()), err) == (4, "")


async def test_a_long_redrive_shows_how_far_it_is(cli: Cli) -> None:
    for _ in range(205):
        await cli.events.die()
    out, err = await cli.run("dead-letters", "redrive", "hello", "--all")
    assert (out, err) == ("", "100 of 205\n200 of 205\n205 of 205\n205 queued again\n")
    assert await command(cli.events.redis, "XLEN", cli.events.queue.async_) == 205
    assert await cli.run("dead-letters", "redrive", "hello", "--all") == ("", "hello has no dead letters\n")


async def test_some_are_run_again_by_id_or_by_filter(cli: Cli) -> None:
    await cli.events.die()
    await cli.events.die(reason="EventAgeExceeded")
    listed = json.loads((await cli.run("dead-letters", "list", "hello", "-o", "json"))[0])
    found = await cli.run("dead-letters", "redrive", "hello", listed[0]["id"], "1-0")
    assert found == ("", "1 queued again, 1 were no dead letters any more\n")
    assert "no such dead letter" in (await cli.run("dead-letters", "redrive", "hello", listed[0]["id"], code=1))[1]
    found = await cli.run("dead-letters", "redrive", "hello", "--all", "--reason", "RetriesExhausted")
    assert found == ("", "hello has no dead letters that fit\n")
    found = await cli.run("dead-letters", "redrive", "hello", "--all", "--reason", "EventAgeExceeded")
    assert found == ("", "1 queued again\n")


async def test_purge_deletes_what_it_is_told_to(cli: Cli) -> None:
    for _ in range(3):
        await cli.events.die()
    entry, *_ = json.loads((await cli.run("dead-letters", "list", "hello", "-o", "json"))[0])
    assert "--yes" in (await cli.run("dead-letters", "purge", "hello", "--all", code=1))[1]
    assert await cli.run("dead-letters", "purge", "hello", entry["id"], "--yes") == ("", "1 deleted\n")
    assert await cli.run("dead-letters", "purge", "hello", "--all", "-y") == ("", "2 deleted\n")
    assert await command(cli.events.redis, "XLEN", cli.events.queue.dead) == 0


@pytest.mark.parametrize(
    ("words", "says", "code"),
    [
        (("invocation", "get", "x"), "no invocation id", 1),
        (("invocation", "wait", "x"), "no invocation id", 1),
        (("invocation", "cancel", "x"), "no invocation id", 1),
        (("invocation", "get", str(uuid4())), "There is no invocation", 1),
        (("invocation", "wait", str(uuid4())), "There is no invocation", 1),
        (("dead-letters", "list", "nobody"), "There is no function nobody", 1),
        (("dead-letters", "list", "hello", "--since", "yesterday"), "RFC 3339", 1),
        (("dead-letters", "show", "hello", "x"), "no dead letter's id", 1),
        (("dead-letters", "show", "hello", "1-0"), "has no dead letter 1-0", 1),
        (("dead-letters", "redrive", "hello"), "Name their ids, or say --all", 2),
        (("dead-letters", "redrive", "hello", "1-0", "--all"), "Name their ids, or say --all", 2),
        (("dead-letters", "redrive", "hello", "1-0", "--reason", "x"), "go with --all", 2),
        (("dead-letters", "redrive", "hello", "1-0"), "`forebay dead-letters list hello`", 1),
        (("dead-letters", "purge", "hello"), "Name their ids, or say --all", 2),
        (("dead-letters", "purge", "hello", "1-0", "--yes"), "has no dead letter 1-0", 1),
    ],
)
async def test_mistakes_are_one_line(cli: Cli, words: tuple[str, ...], says: str, code: int) -> None:
    out, err = await cli.run(*words, code=code)
    assert out == ""
    assert err.startswith("forebay: ")
    assert says in err
    assert len(err.splitlines()) == 1
