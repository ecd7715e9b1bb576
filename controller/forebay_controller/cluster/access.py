"""What a function may reach Redis and the gateway with: derived secrets, its Secret, its Redis user (pure).

Nothing of this is stored: it is derived from the installation's one key and the function's uid, so that the controller
can give it out again at any time without a right to read Secrets (docs/adr/0003-secrets-are-derived.md).
"""

import base64
import hmac
import json
from dataclasses import replace
from hashlib import sha256
from typing import Any

from forebay_common import credentials
from forebay_common.keys import PlatformKeys
from forebay_common.redis_client import Part
from forebay_common.spec import FunctionSpec
from forebay_controller.cluster.api import Object
from forebay_controller.cluster.config import SHARED, ClusterConfig
from forebay_controller.cluster.ownership import metadata_of, owner_reference

SECRET_CHARS = 40
ACCESS_KEY_PREFIX = "FBFN"
ACCESS_KEY_CHARS = 16
REDIS_DOCUMENT = "redis.json"
ACCESS_KEY_ID = "AWS_ACCESS_KEY_ID"
SECRET_ACCESS_KEY = "AWS_SECRET_ACCESS_KEY"  # noqa: S105 - the variable's name
_USER_INFIX = "-fn-"
_UID_CHARS = 8
_READ_AND_WRITTEN = ("q:*", "instance:*", "body:*", "result:*")
_COMMANDS = (
    "evalsha", "time", "xreadgroup", "xack", "xdel", "xadd", "xpending", "xrange", "xclaim", "xgroup|create",
    "xgroup|delconsumer", "xlen", "zadd", "get", "set", "unlink", "expire", "pexpire", "hset", "hget", "hdel",
    "hincrby", "lpop", "publish", "role", "cluster|slots", "asking",
)  # fmt: skip
"""What a runtime calls, and what the scripts that it calls call: docs/queue-protocol.md."""


def derive(function_key: bytes, purpose: str, uid: str) -> str:
    """A secret of one function for one purpose, url-safe."""
    digest = hmac.digest(function_key, f"{purpose}/{uid}".encode(), "sha256")
    return base64.urlsafe_b64encode(digest).decode()[:SECRET_CHARS]


def redis_password(function_key: bytes, uid: str) -> str:
    """The password of a function's Redis user."""
    return derive(function_key, "redis", uid)


def redis_user(prefix: str, uid: str) -> str:
    """The name of a function's Redis user."""
    return f"{prefix}{_USER_INFIX}{uid}"


def uid_of_redis_user(prefix: str, user: str) -> str:
    """The function's uid in the name of a Redis user; "" for a user that is no function's of this installation."""
    head = f"{prefix}{_USER_INFIX}"
    return user.removeprefix(head) if user.startswith(head) else ""


def acl_rules(platform: PlatformKeys, spec: FunctionSpec, password: str) -> tuple[Part, ...]:
    """The arguments of ACL SETUSER after the name: all that an instance of the function may do, and no more.

    Its own queues, heartbeats and payloads; its code, read only; RPUSH alone on reply lists, of which it may read
    none. For Redis from 7.0 on, and Valkey. No name in a key holds a character that means something in a pattern.
    """
    base = platform.function(spec.namespace, spec.name, spec.uid).base
    return (
        "reset",
        "on",
        f">{password}",
        f"&{platform.wake_channel}",
        *(f"~{base}:{own}" for own in _READ_AND_WRITTEN),
        *(f"+{command}" for command in _COMMANDS),
        f"(+get %R~{base}:code:*)",
        f"(+evalsha +get +set +unlink ~{base}:once:*)",
        f"(+rpush ~{platform.prefix}:reply:*)",
    )


def access_key_id(uid: str) -> str:
    """The id of the key pair that a function calls others with."""
    digest = base64.b32encode(sha256(uid.encode()).digest()).decode()
    return ACCESS_KEY_PREFIX + digest[:ACCESS_KEY_CHARS]


def credential_of(function_key: bytes, spec: FunctionSpec, *, region: str, now_s: float) -> credentials.Credential:
    """What is published of a function's own key pair: it may invoke within its namespace, and nothing else."""
    return credentials.Credential.derive(
        access_key_id(spec.uid),
        derive(function_key, credentials.INVOKE, spec.uid),
        region=region,
        now_s=now_s,
        scopes=(credentials.INVOKE,),
        namespaces=(spec.namespace,),
    )


def secret_name(spec: FunctionSpec) -> str:
    """Name of a function's Secret, which no other function of that name ever had."""
    return f"forebay-{spec.pod.resource_name}-{spec.uid[:_UID_CHARS]}"


def function_secret(config: ClusterConfig, spec: FunctionSpec, ca: str | None) -> Object:
    """A function's Secret, to be applied; owned by the Function. `ca` is the text of Redis's authorities."""
    metadata = metadata_of(config, spec, secret_name(spec))
    metadata["ownerReferences"] = [owner_reference(spec)]
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": metadata,
        "type": "Opaque",
        "data": {
            REDIS_DOCUMENT: _encoded(json.dumps(_redis_document(config, spec, ca))),
            ACCESS_KEY_ID: _encoded(access_key_id(spec.uid)),
            SECRET_ACCESS_KEY: _encoded(derive(config.function_key, credentials.INVOKE, spec.uid)),
        },
    }


def _encoded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def _redis_document(config: ClusterConfig, spec: FunctionSpec, ca: str | None) -> dict[str, Any]:
    to = config.redis_for_functions
    username: str | None = redis_user(config.prefix, spec.uid)
    password: str | None = redis_password(config.function_key, spec.uid)
    if config.redis_acl == SHARED:
        username, password = to.username, to.password
    # Their authorities go along as text: a pod has no such file.
    return replace(to, username=username, password=password, ca_file=None).to_json() | {"ca": ca}
