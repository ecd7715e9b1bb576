"""The two things that differ between one machine and Kubernetes, and what the rest of the controller sees of them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from forebay_common.spec import FunctionSpec


@dataclass(frozen=True, slots=True)
class FunctionStatus:
    """What the reconciler found out about one function, for its routing entry and for people.

    `capacity` counts handler processes of starting and ready instances; `cannot_start` is the reason why no
    instance comes up, "" when nothing is wrong; `retry_at_ms` the Unix time of the next attempt. `reason` is what keeps
    calls waiting or instances from starting; `held_back` when that is only a bound on their number. `init_failure` is
    why instances run and yet no handler comes up: callers get that from them, so it closes no door.
    """

    capacity: int = 0
    cannot_start: str = ""
    retry_at_ms: int = 0
    queued: int = 0
    in_flight: int = 0
    dead_letters: int = 0
    starting: int = 0
    idle: int = 0
    busy: int = 0
    draining: int = 0
    reason: str = ""
    held_back: bool = False
    init_failure: str = ""


class FunctionSource(Protocol):
    """Where Functions come from: the local registry, or Function resources."""

    def functions(self) -> Mapping[str, FunctionSpec]:
        """All functions by uid, as last seen; no I/O."""
        ...

    def on_change(self, callback: Callable[[str], None]) -> None:
        """Call `callback(uid)` in the event loop whenever a function was created, changed or deleted."""
        ...

    async def publish_status(self, uid: str, status: FunctionStatus) -> None:
        """Make a function's status known: its routing entry when capacity or the reason changed, and readers."""
        ...

    def note_status(self, uid: str, status: FunctionStatus) -> None:
        """Take note of a function as a look has just found it; no I/O."""
        ...

    async def update_applied(self, uid: str, revision: int) -> None:
        """No instance of an older revision takes calls any more: a pending update is finished."""
        ...


class ExitReport(Protocol):
    """Told when an instance is gone."""

    def __call__(self, instance_id: str, reason: str) -> None:
        """`reason` is "" for an exit that was asked for, else what happened, in words for people."""
        ...


@dataclass(frozen=True, slots=True)
class RunningInstance:
    """One instance that the backend knows of.

    `held_up` is why it does not come up for now, in words for people: no node has room, its image cannot be pulled.
    It may still come up; until then it serves nobody. "" when nothing is known to be wrong.
    """

    instance_id: str
    uid: str
    revision: int
    started_at_ms: int
    held_up: str = ""


class InstanceBackend(Protocol):
    """What starts and stops instances: local processes, or pods through the Kubernetes API."""

    @property
    def starts_at_once_max(self) -> int:
        """How many instances may be coming up at a time; more would only make each of them ready later."""
        ...

    @property
    def quick_instances_max(self) -> int | None:
        """How many instances the machine has the cores for when each of them is kept busy by a quick handler.

        None where instances bring their cores along.
        """
        ...

    @property
    def replaces_first(self) -> bool:
        """Whether instances of an older revision go on taking calls until new ones are ready.

        Where a start takes long that spares callers the wait; where it is quick, old ones are told to leave at once.
        """
        ...

    async def start(self, spec: FunctionSpec, instance_id: str) -> None:
        """Start one instance; returns once it is on its way. Raises InstanceStartError with a reason for people."""
        ...

    async def stop(self, instance_id: str) -> None:
        """Ask for the end of an instance that cannot be told through Redis yet: what it may have begun, it finishes."""
        ...

    async def kill(self, instance_id: str) -> None:
        """End an instance at once, whatever it holds. A drain goes through the instance's control stream."""
        ...

    def instances(self) -> Mapping[str, RunningInstance]:
        """Those that run, also ones that an earlier controller started; no I/O."""
        ...

    def on_exit(self, report: ExitReport) -> None:
        """Call `report` in the event loop when an instance is gone."""
        ...

    async def adopt(self, functions: Mapping[str, FunctionSpec]) -> None:
        """Find the instances that an earlier controller left running. `functions` is the source's, kept up to date."""
        ...

    async def close(self) -> None:
        """Let go of the instances; they keep running."""
        ...


class InstanceStartError(Exception):
    """An instance could not be started; the message says why, for people."""
