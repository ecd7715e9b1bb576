"""What a caller is told when Redis refuses or is away. Pure.

A refused command changed nothing: a script is all or nothing, since Redis looks at its memory and its role before it
begins. So the caller may send the call again.
"""

UNKNOWN_SCRIPT = "NOSCRIPT"

AWAY = "Redis is not reachable, so the call was not accepted"
FULL = "Redis is full, so the call was not accepted"
MAY_RUN = "The connection to Redis was lost before the call was confirmed: it may or may not run"
NOT_REPLICATED = "Redis has the event, but no replica of it has confirmed that in time: it may run all the same"

_WORDS = {
    "BUSY": "Redis is busy",
    "CLUSTERDOWN": "the Redis Cluster has lost a part of itself",
    "LOADING": "Redis is loading its data",
    "MASTERDOWN": "Redis is a replica and has lost its primary",
    "MISCONF": "Redis cannot save its data and takes no writes",
    "NOPERM": "Redis does not let this gateway do it",
    "NOREPLICAS": "Redis has not enough replicas and takes no writes",
    "OOM": "Redis is out of memory",
    "READONLY": "Redis takes no writes, being a replica",
    "TRYAGAIN": "Redis is moving the function's keys to another node",
    UNKNOWN_SCRIPT: "Redis was restarted and does not know its scripts yet",
}


def code_of(error: Exception) -> str:
    """The error's first word: Redis's code for it."""
    return str(error).partition(" ")[0]


def words_of(error: Exception) -> str:
    """Why a call was not accepted, for its caller."""
    return f"{_WORDS.get(code_of(error)) or f'Redis refused it ({error})'}, so the call was not accepted"
