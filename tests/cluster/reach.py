"""How tests reach the release's Services: directly where this machine is the node, else by `kubectl port-forward`."""

import contextlib
import subprocess
import threading
from collections.abc import Iterator
from typing import Protocol

from .access import Cluster

PORT_FORWARD_TIMEOUT_S = 20.0


class Reach(Protocol):
    """Gives the URL under which a Service's port answers here."""

    def url(self, namespace: str, service: str, port: int) -> str:
        """`http://HOST:PORT`."""
        ...

    def close(self) -> None:
        """End what it started."""
        ...


class ServiceAddresses:
    """The Services' own addresses: kube-proxy's rules are in effect on this machine too."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster

    def url(self, namespace: str, service: str, port: int) -> str:
        """The cluster address, asked each time: another installation has another one."""
        address = self._cluster.kubectl(
            "get", "service", service, f"--namespace={namespace}", "--output=jsonpath={.spec.clusterIP}"
        )
        return f"http://{address}:{port}"

    def close(self) -> None:
        """Nothing was started."""


class PortForwards:
    """A `kubectl port-forward` for each Service, started again when its pod has gone."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._forwards: dict[tuple[str, str, int], _Forward] = {}

    def url(self, namespace: str, service: str, port: int) -> str:
        """The forwarded port on loopback."""
        key = (namespace, service, port)
        if key not in self._forwards:
            self._forwards[key] = _Forward(self._cluster, namespace, f"service/{service}", port)
        return f"http://127.0.0.1:{self._forwards[key].port()}"

    def close(self) -> None:
        """End them all."""
        for forward in self._forwards.values():
            forward.close()


@contextlib.contextmanager
def forwarded(cluster: Cluster, namespace: str, target: str, port: int) -> Iterator[str]:
    """The URL of a port of one pod or Service (`pod/NAME`), forwarded for the length of a block."""
    forward = _Forward(cluster, namespace, target, port)
    try:
        yield f"http://127.0.0.1:{forward.port()}"
    finally:
        forward.close()


class _Forward:
    """Keeps one port-forward going on the same local port."""

    def __init__(self, cluster: Cluster, namespace: str, target: str, port: int) -> None:
        self._command = ["port-forward", f"--namespace={namespace}", target]
        self._cluster = cluster
        self._target = port
        self._local = 0
        self._ready = threading.Event()
        self._closing = False
        self._process = self._start()
        self._thread = threading.Thread(target=self._keep, daemon=True)
        self._thread.start()

    def port(self) -> int:
        """The local port, once it listens."""
        assert self._ready.wait(PORT_FORWARD_TIMEOUT_S), f"kubectl {' '.join(self._command)} does not listen"
        return self._local

    def close(self) -> None:
        """End it."""
        self._closing = True
        self._process.kill()
        self._thread.join(PORT_FORWARD_TIMEOUT_S)

    def _start(self) -> subprocess.Popen[str]:
        ports = f"{self._local or ''}:{self._target}"
        return subprocess.Popen(
            [self._cluster.programs["kubectl"], *self._command, ports],
            env=self._cluster.environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def _keep(self) -> None:
        while not self._closing:
            process = self._process
            assert process.stdout is not None
            with process.stdout:
                for line in process.stdout:  # Forwarding from 127.0.0.1:41234 -> 8480
                    if line.startswith("Forwarding from 127.0.0.1:"):
                        self._local = int(line.split(":")[1].split()[0])
                        self._ready.set()
            process.wait()
            if not self._closing:
                self._process = self._start()
