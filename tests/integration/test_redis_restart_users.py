"""A server whose default user is off has all that it was given after a restart: it reads its file as that user."""

import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError

from forebay_common.keys import PlatformKeys
from forebay_common.queue import VersionQueue, create_queues, observe
from forebay_common.redis_client import RedisSettings, command, connect
from forebay_common.scripts import load_all
from forebay_controller.cluster.redis_nodes import replay_problem
from support.chart_values import CHARTS
from support.queue_side import accept, event
from support.redis_servers import KINDS, binary_of
from support.waiting import wait_until

PLATFORM = PlatformKeys("test")
QUEUE = VersionQueue(PLATFORM.function("default", "hello", "u1"))
WORKING_USER = "user worker on nopass ~* &* +@all\n"


class Server:
    """A server with a file of users, on a Unix socket of its own."""

    def __init__(self, kind: str, folder: Path) -> None:
        self._kind = kind
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self.settings = RedisSettings(unix_socket=str(folder / "s"), username="worker", password="any")

    def start(self, default_user: str) -> None:
        (self._folder / "users.acl").write_text(f"{default_user}\n{WORKING_USER}")
        options = {
            "--port": "0",
            "--unixsocket": str(self._folder / "s"),
            "--dir": str(self._folder),
            "--save": "",
            "--appendonly": "yes",
            "--aclfile": str(self._folder / "users.acl"),
        }
        words = [word for option in options.items() for word in option]
        self._process = subprocess.Popen([binary_of(self._kind), *words], stdout=subprocess.DEVNULL)
        wait_until((self._folder / "s").exists, "the server listens")

    def stop(self) -> None:
        """As Kubernetes does; the server removes its socket."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait(20)
            self._process = None


@pytest.fixture(params=KINDS)
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Server]:
    server = Server(request.param, tmp_path)
    yield server
    server.stop()


def default_user_of_the_chart() -> str:
    lines = (CHARTS / "forebay" / "templates" / "valkey" / "_files.tpl").read_text().splitlines()
    [found] = [line for line in lines if line.startswith("user default ")]
    assert found.split()[2] == "off"
    return found


async def test_accepted_events_are_there_after_a_restart_of_the_charts_valkey(server: Server) -> None:
    server.start(default_user_of_the_chart())
    client = connect(server.settings)
    await load_all(client)
    await create_queues(client, QUEUE)
    for _ in range(3):
        await accept(client, QUEUE, event())
    assert await replay_problem(client, PLATFORM.prefix) == ""
    await client.aclose()
    server.stop()
    server.start(default_user_of_the_chart())
    client = connect(server.settings)
    [seen] = await observe(client, [QUEUE])
    assert seen is not None
    assert seen.async_.length == 3
    await client.aclose()


async def test_nobody_can_be_the_default_user(server: Server) -> None:
    server.start(default_user_of_the_chart())
    client = connect(server.settings)
    await client.aclose()
    for login in ({"username": None, "password": None}, {"username": "default", "password": ""}):
        nobody = connect(replace(server.settings, **login))
        with pytest.raises(RedisConnectionError, match=r"Authentication required|user is disabled"):
            await command(nobody, "PING")
        await nobody.aclose()


async def test_a_default_user_without_rights_is_told(server: Server) -> None:
    server.start("user default off")
    client = connect(server.settings)
    assert "accepted events would be lost" in await replay_problem(client, PLATFORM.prefix)
    await client.aclose()
