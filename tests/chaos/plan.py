"""What one seed does: which faults, when, on which part, and which calls. Pure: the same seed gives the same plan."""

import random
from dataclasses import dataclass, replace

# How a part can be hurt. Of its connections to Redis: all end; one ends in the middle of a request; requests arrive
# but no replies; all end, which Redis hears of later only; no new ones are made; each chunk is late; nothing passes.
# Redis itself: its disk is full; its memory is; it is made a replica, which takes no writes.
KILL = "kill"
PAUSE = "pause"
CUT = "cut"
TEAR = "tear"
MUTE = "mute"
HALF = "half"
REFUSE = "refuse"
SLOW = "slow"
STALL = "stall"
FULL_DISK = "full disk"
FULL_MEMORY = "full memory"
READ_ONLY = "read-only"
# The parts.
HANDLER = "handler"
RUNTIME = "runtime"
SANDBOX = "sandbox"
GATEWAY = "gateway"
CONTROLLER = "controller"
VALKEY = "valkey"
# How faults go together in a seed.
INSTANCES = "instances"
PROCESSES = "processes"
PAUSES = "pauses"
REDIS = "redis"
WIRES = "wires"
STORE = "store"
FAMILIES = (INSTANCES, PROCESSES, PAUSES, REDIS, WIRES, STORE)

EVERYSEC = "everysec"
ALWAYS = "always"

FIRST_FAULT_S = 1.5
"""Not before functions have instances to be hurt."""
FAULT_EVERY_S = 0.7
TOGETHER = 0.3
"""How often a fault comes at the moment of the one before."""
PAUSE_MAX_S = 3.0
EVENTS_PER_S = 40.0
DURATION_MIN_S = 10.0
LARGE_SHARE = 0.08
LARGE_BYTES = (270_000, 600_000)
WAIT_S = (5.0, 15.0)
REPEATED_SHARE = 0.2
"""Of the calls of a function with `repeats`: those with an idempotency key."""
REPEATS_MAX = 2
REPEAT_WITHIN_S = 2.0
CANCELLED_SHARE = 0.15
CANCEL_WITHIN_S = 1.0
DELAY_S = (0.3, 4.0)
GROUPS = 4
FAILS_ALWAYS = 99


@dataclass(frozen=True, slots=True)
class FunctionPlan:
    """A function of the load: how often its handler fails before it succeeds, and its settings.

    `fails`: one of these for each call. `poison`: its handler kills itself. `sync_share`: of its calls, sync ones.
    `repeats`, `cancels`, `delays`, `groups`, `reports`: some of its calls have idempotency keys, some of its events are
    called off; all are for later, are in a group, have destinations.
    """

    name: str
    fails: tuple[int, ...] = (0,)
    poison: bool = False
    max_retries: int = 1
    max_age_s: int | None = None
    work_s: tuple[float, float] = (0.0, 0.02)
    min_instances: int = 0
    max_instances: int = 3
    idle_s: float = 60.0
    weight: int = 3
    sync_share: float = 0.4
    repeats: bool = False
    cancels: bool = False
    delays: bool = False
    groups: bool = False
    reports: bool = False


SINK = FunctionPlan("sink", weight=0, max_instances=2)
"""What the ends of events are told to."""
FUNCTIONS = (
    FunctionPlan("quick", idle_s=1.0, weight=6, repeats=True),
    FunctionPlan("slow", work_s=(0.1, 1.2), weight=6, cancels=True),
    # There is always a call under way whose caller is to hear of its instance's death.
    FunctionPlan("patient", work_s=(0.8, 2.5), weight=2, sync_share=1.0),
    FunctionPlan("flaky", fails=(1,), repeats=True),
    FunctionPlan("failing", fails=(FAILS_ALWAYS,), weight=2),
    FunctionPlan("poison", poison=True, weight=1),
    # Its second retry would be due after its greatest age.
    FunctionPlan("aged", fails=(FAILS_ALWAYS,), max_retries=2, max_age_s=60, weight=1),
    FunctionPlan("ordered", fails=(0, 0, 0, 1, FAILS_ALWAYS), work_s=(0.0, 0.1), groups=True, sync_share=0.0),
    FunctionPlan("later", min_instances=1, max_instances=2, weight=2, delays=True, sync_share=0.0),
    FunctionPlan("reported", fails=(0, 0, 1, FAILS_ALWAYS), max_instances=2, reports=True, sync_share=0.0),
    SINK,
)
RETRY_DELAYS_S = (0.4, 65.0)
"""The second is that of `aged` alone: every other function has one retry."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault: `pick` in [0, 1) chooses among the parts there are, `amount` in [0, 1) how hard it is hit."""

    at_s: float
    how: str
    part: str
    for_s: float
    pick: float
    amount: float


@dataclass(frozen=True, slots=True)
class CallPlan:
    """One call: when, to which function and gateway (0 or 1), and what the handler is to do.

    `fails`: how often the handler is to fail before it succeeds. `key`: its idempotency key; repeats have the same
    `ident`. `cancel_s`: it is called off so long after its acceptance, None: not. `delay_s` 0: it is for now. "" is no
    key and no group.
    """

    at_s: float
    ident: str
    function: FunctionPlan
    sync: bool
    gateway: int
    work_s: float
    filler_bytes: int
    wait_s: float
    fails: int = 0
    key: str = ""
    group: str = ""
    delay_s: float = 0.0
    cancel_s: float | None = None

    @property
    def succeeds(self) -> bool:
        """Whether it ends well unless something happens to it: an event after its retries."""
        return not self.function.poison and self.fails <= (0 if self.sync else self.function.max_retries)


@dataclass(frozen=True, slots=True)
class Plan:
    """A seed's whole plan. `embedded`: `up` starts Valkey itself, and no proxy is between anything."""

    seed: int
    families: tuple[str, ...]
    embedded: bool
    fsync: str
    duration_s: float
    faults: tuple[Fault, ...]
    calls: tuple[CallPlan, ...]


def make_plan(seed: int, events: int, families: tuple[str, ...] = ()) -> Plan:
    """The plan of a seed with so many calls; `families` () lets the seed choose."""
    chance = random.Random(f"{seed} how")
    chosen = families or tuple(sorted(chance.sample(FAMILIES, chance.choice((1, 2, 2, 3, 4)))))
    embedded = not {WIRES, STORE}.intersection(chosen) and chance.random() < 0.5
    fsync = EVERYSEC if chance.random() < 0.6 else ALWAYS
    duration_s = max(DURATION_MIN_S, events / EVENTS_PER_S)
    return Plan(
        seed, chosen, embedded, fsync, duration_s, _faults(seed, chosen, duration_s), _calls(seed, events, duration_s)
    )


def _faults(seed: int, families: tuple[str, ...], duration_s: float) -> tuple[Fault, ...]:
    chance = random.Random(f"{seed} faults")
    menu = [choice for family in families for choice in _MENU[family]]
    weights = [weight for *_, weight in menu]
    found = []
    at_s = FIRST_FAULT_S
    while at_s < duration_s:
        [(how, part, (low_s, high_s), _)] = chance.choices(menu, weights)
        found.append(Fault(at_s, how, part, chance.uniform(low_s, high_s), chance.random(), chance.random()))
        if chance.random() >= TOGETHER:
            at_s += chance.expovariate(1 / FAULT_EVERY_S)
    return tuple(found)


_MENU: dict[str, tuple[tuple[str, str, tuple[float, float], int], ...]] = {
    # how, part, for how long (of a kill: until it is started again, where that is for us to do), weight
    INSTANCES: (
        (KILL, HANDLER, (0, 0), 2),
        (KILL, RUNTIME, (0, 0), 3),
        (KILL, SANDBOX, (0, 0), 2),
    ),
    PROCESSES: (
        (KILL, GATEWAY, (0.1, 1.0), 2),
        (KILL, CONTROLLER, (0, 0), 2),
        # So that they are missed.
        (KILL, RUNTIME, (0, 0), 2),
    ),
    PAUSES: (
        (PAUSE, HANDLER, (0.2, PAUSE_MAX_S), 3),
        (PAUSE, RUNTIME, (0.2, PAUSE_MAX_S), 4),
        (PAUSE, SANDBOX, (0.2, PAUSE_MAX_S), 2),
        (PAUSE, GATEWAY, (0.2, PAUSE_MAX_S), 3),
        (PAUSE, CONTROLLER, (0.2, PAUSE_MAX_S), 3),
    ),
    REDIS: (
        (KILL, VALKEY, (0.05, 1.5), 3),
        (PAUSE, VALKEY, (0.2, 2.0), 2),
        # So that what a dead Redis finds is not only healthy parts.
        (KILL, RUNTIME, (0, 0), 2),
    ),
    STORE: (
        (FULL_DISK, VALKEY, (0.5, 2.5), 2),
        (FULL_MEMORY, VALKEY, (0.5, 2.5), 2),
        (READ_ONLY, VALKEY, (0.5, 2.5), 2),
        (KILL, RUNTIME, (0, 0), 2),
        (KILL, GATEWAY, (0.1, 1.0), 1),
    ),
    WIRES: tuple(
        (how, part, for_s, weight)
        for part in (RUNTIME, GATEWAY, CONTROLLER)
        for how, for_s, weight in (
            (CUT, (0, 0), 3),
            (TEAR, (0.5, 1.0), 3),
            (MUTE, (0.05, 0.6), 3),
            (HALF, (1.0, 6.0), 2),
            (REFUSE, (0.3, 2.0), 2),
            (SLOW, (0.5, 3.0), 2),
            (STALL, (0.3, 2.5), 2),
        )
    ),
}


def _calls(seed: int, events: int, duration_s: float) -> tuple[CallPlan, ...]:
    chance = random.Random(f"{seed} calls")
    weights = [function.weight for function in FUNCTIONS]
    found: list[CallPlan] = []
    while len(found) < events:
        [function] = chance.choices(FUNCTIONS, weights)
        filler = chance.randint(*LARGE_BYTES) if chance.random() < LARGE_SHARE else chance.randint(0, 200)
        call = CallPlan(
            at_s=chance.uniform(0, duration_s),
            ident=f"c{len(found)}",
            function=function,
            sync=chance.random() < function.sync_share,
            gateway=chance.randrange(2),
            work_s=chance.uniform(*function.work_s),
            filler_bytes=filler,
            wait_s=chance.uniform(*WAIT_S),
            fails=chance.choice(function.fails),
        )
        found += _with_options(call, chance)
    return tuple(sorted(found[:events], key=lambda call: call.at_s))


def _with_options(call: CallPlan, chance: random.Random) -> list[CallPlan]:
    """A call with what its function's calls ask for, and its repeats."""
    function = call.function
    if function.groups:
        return [replace(call, group=f"group-{chance.randrange(GROUPS)}")]
    if function.delays:
        return [replace(call, delay_s=round(chance.uniform(*DELAY_S), 3))]
    if function.cancels and not call.sync and chance.random() < CANCELLED_SHARE:
        return [replace(call, cancel_s=chance.uniform(0, CANCEL_WITHIN_S))]
    if not function.repeats or chance.random() >= REPEATED_SHARE:
        return [call]
    first = replace(call, key=f"key of {call.ident}")
    repeats = [
        replace(first, at_s=call.at_s + chance.uniform(0, REPEAT_WITHIN_S), gateway=chance.randrange(2))
        for _ in range(chance.randint(1, REPEATS_MAX))
    ]
    return [first, *repeats]
