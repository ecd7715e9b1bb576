"""What a component's Redis user may do, as ACL rules (Redis from 7.0 on, Valkey from 8 on).

The rights of a function's user are the controller's to give (`forebay_controller/cluster/access.py`).
"""

from forebay_common.keys import PlatformKeys


def gateway_acl(prefix: str) -> tuple[str, ...]:
    """What follows name and password in a gateway's user: the commands it uses, each on the keys it uses it on.

    It writes calls and takes them back, reads replies and the function table, and keeps its own heartbeat. It can read
    no queue and no code, change no table entry and no access key, and load no script. What stands under an idempotency
    key it reads and writes: a repeated call's answer comes from there.
    """
    platform = PlatformKeys(prefix)
    of_functions = f"{prefix}:{{*}}"
    tables = " ".join(f"%R~{key}" for key in (platform.functions, platform.generation, platform.credentials))
    return (
        "resetchannels",
        f"&{platform.wake_channel}",
        f"~{of_functions}:q:*",
        f"~{of_functions}:body:*",
        # All keys of a script lie under one rule: one that accepts or takes back has those of its queue beside it.
        f"~{of_functions}:once:*",
        *("+ping", "+select", "+role", "+cluster|slots", "+asking", "+multi", "+exec", "+publish", "+wait"),
        *("+xadd", "+xlen", "+zcard", "+evalsha", "+xpending", "+xdel"),
        # What accepts an event: its place, its time and its group's turn; how many wait for such a turn.
        *("+time", "+exists", "+zadd", "+hexists", "+hset", "+hsetnx", "+hincrby", "+rpush"),
        f"(+hget %R~{of_functions}:q:*:groups)",
        f"(+get +set +unlink ~{of_functions}:once:*)",
        f"(+set +unlink ~{of_functions}:body:*)",
        f"(+getrange +unlink ~{of_functions}:result:*)",
        f"(+get +hget +hgetall {tables})",
        f"(+subscribe &{platform.functions})",
        f"(+blmpop +unlink ~{platform.reply('*')})",
        f"(+set +unlink ~{platform.process('*')} ~{platform.reply('*')})",
        f"(+sadd ~{platform.processes})",
    )
