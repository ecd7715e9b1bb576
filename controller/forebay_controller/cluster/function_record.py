"""What the leader remembers of one Function."""

import asyncio
from dataclasses import dataclass, field

from forebay_common.routing import RoutingEntry
from forebay_common.spec import FunctionSpec
from forebay_controller.cluster.informer import Key
from forebay_controller.cluster.status import Accepted, Problem
from forebay_controller.interfaces import FunctionStatus


@dataclass(slots=True)
class FunctionRecord:
    """One Function: its object's key, what instances run by (`accepted`), and what is wrong with its spec.

    `spec` is what its resource asks for, as last read. `touched`: something of it may be in Redis.
    `prepared`: the spec for which everything outside Redis was made by this process; None: nothing is known to be
    there. `settled`: what is in Redis is known to be as `accepted` wants it. `entry` is what gateways were told last.
    `old_code`: packages that are not its code any more.
    """

    key: Key
    uid: str
    spec: FunctionSpec
    accepted: Accepted | None = None
    problem: Problem | None = None
    problem_count: int = 0
    observed: FunctionStatus = field(default_factory=FunctionStatus)
    applied_revision: int = 0
    prepared: FunctionSpec | None = None
    settled: bool = False
    touched: bool = False
    deleting: bool = False
    entry: RoutingEntry | None = None
    old_code: set[str] = field(default_factory=set)
    looked_at: asyncio.Event = field(default_factory=asyncio.Event)
    table_lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    status_lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    status_changed: asyncio.Event = field(default_factory=asyncio.Event)
    status_written_s: float = float("-inf")
