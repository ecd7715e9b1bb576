"""The stage on a cluster: the chart as it is installed there, reached through kubectl."""

import base64
import contextlib
import http.client
import json
import os
import queue
import secrets
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

NAMESPACE_VARIABLE = "FOREBAY_NAMESPACE"
ENDPOINT_VARIABLE = "FOREBAY_ENDPOINT"
LABEL = "forebay.dev/function"
TIMEOUT_S = 60.0
_CONNECT_TIMEOUT_S = 2.0
_OK = 200


@dataclass(frozen=True)
class Change:
    """An event of a watch on pods, with the time at which it came here (`time.perf_counter`)."""

    at: float
    kind: str
    pod: dict[str, Any]

    @property
    def ready(self) -> bool:
        """Whether the pod's condition Ready is true."""
        conditions = self.pod.get("status", {}).get("conditions", [])
        return any(entry["type"] == "Ready" and entry["status"] == "True" for entry in conditions)


class PodWatch:
    """What happens to a namespace's pods, as the API server tells it."""

    def __init__(self, namespace: str) -> None:
        self._changes: queue.Queue[Change] = queue.Queue()
        command = ["kubectl", "get", "--raw", f"/api/v1/namespaces/{namespace}/pods?watch=true"]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the watch."""
        self._process.kill()
        self._process.wait()
        self._thread.join()

    def next(self, wanted: Callable[[Change], bool], what: str) -> Change:
        """The next change that is wanted; those before it are dropped. Raises TimeoutError."""
        deadline = time.monotonic() + TIMEOUT_S
        while True:
            try:
                change = self._changes.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                raise TimeoutError(f"{what} took more than {TIMEOUT_S} s") from None
            if wanted(change):
                return change

    def names(self, wanted: Callable[[Change], bool]) -> set[str]:
        """Names of the pods in all changes that came and that nobody asked for yet."""
        found = set()
        while not self._changes.empty():
            change = self._changes.get()
            if wanted(change):
                found.add(change.pod["metadata"]["name"])
        return found

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            event = json.loads(line)
            self._changes.put(Change(time.perf_counter(), event["type"], event["object"]))


class ClusterStage:
    """An installed release and a namespace of the benchmark's own. Raises RuntimeError when there is no release."""

    def __init__(self, namespace: str) -> None:
        self.namespace = namespace
        self._release = os.environ.get(NAMESPACE_VARIABLE, "forebay")
        secret = json.loads(kubectl("get", "secret", "forebay-admin", "-n", self._release, "-o", "json"))
        self._key = base64.b64decode(secret["data"]["apiKey"]).decode()
        self._address = _address(self._release)

    def runtime_image(self) -> str:
        """The image that functions' pods run."""
        pods = json.loads(kubectl("get", "pods", "-n", self.namespace, "-o", "json"))["items"]
        image: str = pods[0]["spec"]["containers"][0]["image"]
        return image

    def deploy(self, *names: str, source: str, scale: dict[str, Any] | None = None) -> None:
        """Create functions of one file, and return when they are Ready."""
        items = [
            {
                "apiVersion": "forebay.dev/v1alpha1",
                "kind": "Function",
                "metadata": {"name": name},
                "spec": {
                    "runtime": "python3.13",
                    "handler": "app.handler",
                    "code": {"inline": {"app.py": source}},
                    "scale": scale or {},
                    "timeoutSeconds": 30,
                },
            }
            for name in names
        ]
        apply(self.namespace, *items)
        timeout = f"--timeout={TIMEOUT_S:.0f}s"
        kubectl("wait", "-n", self.namespace, timeout, "--for=condition=Ready", *(f"fn/{name}" for name in names))

    def invoke(self, name: str, *, event: bool = False) -> None:
        """One call, or one event. Raises RuntimeError when it fails."""
        connection = http.client.HTTPConnection(*self._address, timeout=TIMEOUT_S)
        path = f"/ns/{self.namespace}/2015-03-31/functions/{name}/invocations"
        headers = {"X-Api-Key": self._key, "X-Amz-Invocation-Type": "Event" if event else "RequestResponse"}
        try:
            connection.request("POST", path, b"{}", headers)
            answer = connection.getresponse()
            body = answer.read()
        finally:
            connection.close()
        if answer.status not in (_OK, http.client.ACCEPTED) or answer.getheader("x-amz-function-error"):
            raise RuntimeError(f"calling {name} gave {answer.status}: {body!r}")

    @contextlib.contextmanager
    def pods(self) -> Iterator[PodWatch]:
        """Watch the benchmark's pods for the length of a block."""
        watch = PodWatch(self.namespace)
        try:
            yield watch
        finally:
            watch.close()


def kubectl(*arguments: str, stdin: str | None = None) -> str:
    """Run the kubectl that PATH and KUBECONFIG name. Raises RuntimeError with what it said."""
    try:
        done = subprocess.run(
            ["kubectl", *arguments], input=stdin, capture_output=True, text=True, check=False, timeout=120
        )
    except FileNotFoundError:
        raise RuntimeError("these benchmarks need kubectl, and a cluster in KUBECONFIG") from None
    if done.returncode:
        raise RuntimeError(f"kubectl {' '.join(arguments)}: {done.stderr.strip()}")
    return done.stdout


def apply(namespace: str, *items: dict[str, Any]) -> None:
    """Create objects, or change them."""
    kubectl("apply", "-n", namespace, "-f", "-", stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": items}))


def _address(release: str) -> tuple[str, int]:
    """Where the gateway answers from here: FOREBAY_ENDPOINT, else its Service's own address."""
    given = os.environ.get(ENDPOINT_VARIABLE)
    if given:
        parts = urlsplit(given)
        return parts.hostname or "127.0.0.1", parts.port or 80
    service = json.loads(kubectl("get", "service", "forebay-gateway", "-n", release, "-o", "json"))["spec"]
    address = (service["clusterIP"], service["ports"][0]["port"])
    try:
        socket.create_connection(address, _CONNECT_TIMEOUT_S).close()
    except OSError as error:
        raise RuntimeError(
            f"the gateway's Service does not answer from here ({error}): set {ENDPOINT_VARIABLE} to where it does, "
            f"after kubectl port-forward -n {release} service/forebay-gateway 8480:8480 for example"
        ) from None
    return address


@contextlib.contextmanager
def open_cluster_stage() -> Iterator[ClusterStage]:
    """A stage in a namespace that goes away with it."""
    namespace = f"benchmark-{secrets.token_hex(3)}"
    stage = ClusterStage(namespace)
    kubectl("create", "namespace", namespace)
    try:
        yield stage
    finally:
        kubectl("delete", "namespace", namespace, "--wait=false")
