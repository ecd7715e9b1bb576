"""What stands in Redis: whether all work is done, the dead letters, and keys that nobody will remove."""

import json
from dataclasses import dataclass
from typing import Any

from redis.asyncio import Redis

from forebay_common.dead_letters import dead_payload, list_dead
from forebay_common.keys import DEFAULT_PREFIX, PlatformKeys
from forebay_common.queue import VersionQueue, observe
from forebay_common.redis_client import command
from forebay_common.routing import RoutingEntry
from support.leaks import leaked_keys

PLATFORM = PlatformKeys(DEFAULT_PREFIX)
DEAD_MAX = 2_000
HASH_BYTES = 16


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """One dead letter: of which call of which function, why, after how many starts, and whether its payload is there.

    `told`: it is the record of how that call's event has ended, for the function that was to be told.
    """

    ident: str
    function: str
    reason: str
    attempts: int
    payload_kept: bool = True
    told: str = ""


async def function_queues(redis: Redis) -> dict[str, VersionQueue]:
    """The queues of every function, by its name."""
    table: dict[bytes, bytes] = await command(redis, "HGETALL", PLATFORM.functions)
    entries = [RoutingEntry.from_json(raw) for raw in table.values()]
    return {entry.name: VersionQueue(PLATFORM.function(entry.namespace, entry.name, entry.uid)) for entry in entries}


async def unfinished(redis: Redis, queues: dict[str, VersionQueue]) -> dict[str, str]:
    """By function what is not done, and which instances hold how much of it; nothing for one with none."""
    found = {}
    states = await observe(redis, list(queues.values()))
    for name, state in zip(queues, states, strict=True):
        if state is None:
            continue
        counts = (state.sync.length, state.async_.length, state.delayed, state.grouped, state.outbox)
        if any(counts):
            words = "{} sync, {} async, {} delayed, {} wait for their group, {} untold".format(*counts)
            found[name] = f"{words}; held: {dict(state.sync.pending) | dict(state.async_.pending)}"
    return found


async def dead_letters(redis: Redis, queues: dict[str, VersionQueue], idents: dict[str, str]) -> list[DeadLetter]:
    """All dead letters; `idents` are calls' own names by invocation id, for those without a payload."""
    found = []
    for name, queue in queues.items():
        for letter in (await list_dead(redis, queue, limit=DEAD_MAX)).entries:
            payload = await dead_payload(redis, queue, letter)
            event: dict[str, Any] = {} if payload is None else json.loads(payload)
            told = event.get("requestContext", {}).get("condition", "")
            ident = event.get("requestPayload", event).get("id") or idents.get(letter.invocation_id.hex(), "unknown")
            found.append(DeadLetter(ident, name, letter.reason, letter.attempts, payload is not None, told))
    return found


async def leaks(redis: Redis, queues: dict[str, VersionQueue]) -> list[str]:
    """Keys that would stay for ever although nobody needs them, once all work is done."""
    found = [f"{key} would stay for ever" for key in await leaked_keys(redis, DEFAULT_PREFIX)]
    for name, queue in queues.items():
        lists = [key.decode() async for key in redis.scan_iter(match=f"{_literal(queue.keys.base)}:q:*:group:*")]
        found += [f"{key} is left though no event waits" for key in lists]
        turns = await _hashes(redis, queue.groups)
        if turns:
            found.append(f"{turns} groups of {name} have a turn that no event has")
        places, kept = await _hashes(redis, queue.live), await command(redis, "XLEN", queue.ended)
        if places != kept:
            found.append(f"{name} has places of {places} events, and {kept} ends are kept")
    return found


async def _hashes(redis: Redis, key: str) -> int:
    """How many fields of a hash are those of events or groups: 16 bytes."""
    return sum(len(field) == HASH_BYTES for field in await command(redis, "HKEYS", key))


def _literal(text: str) -> str:
    """A pattern that matches a text."""
    return "".join(f"\\{character}" if character in "[]*?\\^" else character for character in text)


async def left_of_functions(redis: Redis) -> list[str]:
    """Keys under any function's tag; there are none once all functions are deleted."""
    found = [key.decode() async for key in redis.scan_iter(match=f"{DEFAULT_PREFIX}:{{*", count=1000)]
    own = {PLATFORM.functions, PLATFORM.generation, PLATFORM.credentials}
    return sorted(key for key in found if key not in own)
