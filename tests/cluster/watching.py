"""A watch of the API server as tests use it: everything that happened, and waiting for what is to happen."""

import contextlib
import json
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from .access import Cluster

Object = dict[str, Any]


@dataclass(frozen=True)
class Change:
    """One event of a watch: ADDED, MODIFIED or DELETED, with the wall-clock time at which it came here."""

    at: float
    kind: str
    object: Object

    @property
    def name(self) -> str:
        """The object's name."""
        name: str = self.object["metadata"]["name"]
        return name


class Watch:
    """Follows a collection from now on; `changes` is all that came, `objects` what there is now, by name.

    The API server may end a watch at any time, as early as it likes: it is opened again, and tells then what there is.
    """

    def __init__(self, cluster: Cluster, path: str) -> None:
        self.changes: list[Change] = []
        self.objects: dict[str, Object] = {}
        self._command = [str(cluster.programs["kubectl"]), "get", "--raw", path]
        self._environment = cluster.environment()
        self._closing = False
        self._errors = ""
        self._news = threading.Condition()
        self._process = self._start()
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the watch."""
        with self._news:
            self._closing = True
            self._process.kill()
        self._thread.join()

    def until(self, condition: Callable[[], object], what: str, timeout_s: float = 30.0) -> None:
        """Return once `condition()` holds, looked at after each change; fails naming `what` and what there is."""
        with self._news:
            if not self._news.wait_for(condition, timeout_s):
                raise AssertionError(f"{what}: not within {timeout_s} s; there is {self.describe()}{self._errors}")

    def status(self, name: str) -> dict[str, Any]:
        """An object's status; empty before there is one."""
        found: dict[str, Any] = self.objects.get(name, {}).get("status", {})
        return found

    def describe(self) -> list[str]:
        """A line for each object there is, with what its status says."""
        return [f"{name}: {json.dumps(found.get('status', {}))[:600]}" for name, found in self.objects.items()]

    def created(self) -> list[str]:
        """Names of everything that was there at some time, in the order in which it came."""
        return list(dict.fromkeys(change.name for change in self.changes))

    def first(self, name: str, condition: Callable[[Object], object]) -> float | None:
        """When an object first came in a state that satisfies the condition."""
        return next((c.at for c in self.changes if c.name == name and condition(c.object)), None)

    def _start(self) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self._command, env=self._environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def _follow(self) -> None:
        while not self._closing:
            self._read()
            _, said = self._process.communicate()
            with self._news:
                if self._closing:
                    return
                self._errors = f"; kubectl said {said.strip()}" if said.strip() else ""
                self._process = self._start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            event = json.loads(line)
            if event["type"] not in ("ADDED", "MODIFIED", "DELETED"):
                continue  # a bookmark, or an error, after which the watch ends
            change = Change(time.time(), event["type"], event["object"])
            with self._news:
                self.changes.append(change)
                if change.kind == "DELETED":
                    self.objects.pop(change.name, None)
                else:
                    self.objects[change.name] = change.object
                self._news.notify_all()


@contextlib.contextmanager
def watching(cluster: Cluster, path: str) -> Iterator[Watch]:
    """Watch a collection, such as `/api/v1/namespaces/x/pods`, for the length of a block."""
    # From what the API server has at hand: without a version it first asks etcd how far it is, which an older etcd
    # answers seconds later.
    watch = Watch(cluster, f"{path}{'&' if '?' in path else '?'}watch=true&resourceVersion=0")
    try:
        yield watch
    finally:
        watch.close()


def pods_of(cluster: Cluster, namespace: str, function: str) -> contextlib.AbstractContextManager[Watch]:
    """Watch a function's pods."""
    return watching(cluster, f"/api/v1/namespaces/{namespace}/pods?labelSelector=forebay.dev/function%3D{function}")


def functions_in(cluster: Cluster, namespace: str) -> contextlib.AbstractContextManager[Watch]:
    """Watch a namespace's Functions."""
    return watching(cluster, f"/apis/forebay.dev/v1alpha1/namespaces/{namespace}/functions")


def deletion_asked(pod: Object) -> bool:
    """Whether somebody has asked for the object's deletion."""
    return "deletionTimestamp" in pod["metadata"]
