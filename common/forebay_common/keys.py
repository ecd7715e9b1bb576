"""The Redis keys of one installation: every name is made here, and nowhere else.

All keys of a function share the hash tag `{NAMESPACE/NAME/UID}`, so a Redis Cluster keeps them on one slot
and a transition that touches several of them can be one script. UID is new at each creation: a recreated
function shares nothing with its predecessor.
"""

GROUP = "g"
RECORD_FIELD = "r"
DEFAULT_PREFIX = "forebay"


class FunctionKeys:
    """The keys under one function's hash tag."""

    __slots__ = ("base",)

    def __init__(self, prefix: str, namespace: str, name: str, uid: str) -> None:
        self.base = f"{prefix}:{{{namespace}/{name}/{uid}}}"

    def sync(self, version: str) -> str:
        """Stream of sync calls of one version."""
        return f"{self.base}:q:{version}:sync"

    def async_(self, version: str) -> str:
        """Stream of async events of one version."""
        return f"{self.base}:q:{version}:async"

    def delayed(self, version: str) -> str:
        """Sorted set of ids of async events that wait for a later time; score = due time in Redis's ms."""
        return f"{self.base}:q:{version}:delayed"

    def dead(self, version: str) -> str:
        """Bounded stream of async records that exhausted their attempts."""
        return f"{self.base}:q:{version}:dead"

    def live(self, version: str) -> str:
        """Hash: invocation id (16 bytes) -> where that async event is, for each that has not ended or is in `ended`."""
        return f"{self.base}:q:{version}:live"

    def ended(self, version: str) -> str:
        """Bounded stream of how async events ended."""
        return f"{self.base}:q:{version}:ended"

    def outbox(self, version: str) -> str:
        """Stream of ended async events whose destination has not been told yet."""
        return f"{self.base}:q:{version}:outbox"

    def groups(self, version: str) -> str:
        """Hash: group hash (16 bytes) -> "1" while an event has its group's turn; `n` -> how many wait for theirs."""
        return f"{self.base}:q:{version}:groups"

    def group(self, version: str, group_hash: bytes) -> str:
        """List of ids of the events of one group that wait for their turn."""
        return f"{self.base}:q:{version}:group:{group_hash.hex()}"

    def once(self, key_hash: bytes) -> str:
        """What was accepted under one idempotency key; expires."""
        return f"{self.base}:once:{key_hash.hex()}"

    def result(self, invocation_id: str) -> str:
        """Result of one invocation (a claim check's large reply; later, kept async results)."""
        return f"{self.base}:result:{invocation_id}"

    def body(self, invocation_id: str) -> str:
        """Payload of one invocation above `CLAIM_CHECK_BYTES`."""
        return f"{self.base}:body:{invocation_id}"

    def code(self, sha256_hex: str, chunk: int) -> str:
        """One chunk of a code package, `CODE_CHUNK_BYTES` each but the last."""
        return f"{self.base}:code:{sha256_hex}:{chunk}"

    def code_index(self) -> str:
        """Hash of the code packages this function holds: sha256 -> JSON {size, chunks, unreferenced_since_ms}."""
        return f"{self.base}:code"

    def spec(self) -> str:
        """The function's whole spec (the local registry's record of it)."""
        return f"{self.base}:spec"

    def instance(self, instance_id: str) -> str:
        """Hash with one instance's heartbeat: state, reason, counters; expires unless renewed."""
        return f"{self.base}:instance:{instance_id}"

    def control(self, instance_id: str) -> str:
        """Stream on which one instance receives drain, cancel and settings."""
        return f"{self.base}:instance:{instance_id}:control"


class PlatformKeys:
    """The keys outside any function's tag."""

    __slots__ = ("blobs", "credentials", "functions", "generation", "prefix", "processes", "wake_channel")

    def __init__(self, prefix: str = DEFAULT_PREFIX) -> None:
        self.prefix = prefix
        self.functions = f"{prefix}:{{functions}}"
        """Hash: `NAMESPACE/NAME` -> routing entry (JSON). Also the channel on which a change is announced."""
        self.generation = f"{prefix}:{{functions}}:generation"
        """Counter of changes to the function table; on the table's slot, since both change in one step."""
        self.credentials = f"{prefix}:{{functions}}:credentials"
        """Hash: access key id -> what gateways check it by (JSON). A change counts as one of the function table's:
        it is announced on the same channel, under the same generations, as `credentials/ACCESS_KEY_ID`."""
        self.processes = f"{prefix}:processes"
        """Set of ids of processes that own a reply list."""
        self.blobs = f"{prefix}:blobs"
        """Sorted set of uploaded code packages, `SHA256:BYTES`; score = Unix s of expiry. Expires with the last."""
        self.wake_channel = f"{prefix}:wake"
        """Channel: a function's `NAMESPACE/NAME/UID` that may need another look."""

    def reply(self, process_id: str) -> str:
        """List of reply frames for one process."""
        return f"{self.prefix}:reply:{process_id}"

    def process(self, process_id: str) -> str:
        """Heartbeat of a process that owns a reply list."""
        return f"{self.prefix}:process:{process_id}"

    def process_gone(self, process_id: str) -> str:
        """Marks a process as dead while replies for it may still come; its TTL says for how much longer."""
        return f"{self.prefix}:process:{process_id}:gone"

    def blob(self, sha256_hex: str, chunk: int) -> str:
        """One chunk of a code package that was uploaded and that no function holds yet; expires."""
        return f"{self.prefix}:{{blob/{sha256_hex}}}:{chunk}"

    def blob_index(self, sha256_hex: str) -> str:
        """JSON {size, chunks} of an uploaded package, written after its chunks; expires with them."""
        return f"{self.prefix}:{{blob/{sha256_hex}}}:index"

    def stream(self, namespace: str, name: str) -> str:
        """Stream that functions of one namespace name as a destination of their events' ends."""
        return f"{self.prefix}:{{stream/{namespace}/{name}}}"

    def streams(self, namespace: str) -> str:
        """Sorted set of the names of a namespace's streams; score = Unix s up to which one is counted."""
        return f"{self.prefix}:{{streams/{namespace}}}"

    def function(self, namespace: str, name: str, uid: str) -> FunctionKeys:
        """Keys of one function."""
        return FunctionKeys(self.prefix, namespace, name, uid)
