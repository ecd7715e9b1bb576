"""What a function may reach Redis and the gateway with, derived from one key."""

import base64
import json
import re

from forebay_common.keys import PlatformKeys
from forebay_controller.cluster.access import (
    access_key_id,
    acl_rules,
    credential_of,
    derive,
    function_secret,
    redis_password,
    uid_of_redis_user,
)
from support.cluster_config import OWNER_UID, UID, cluster_config, function

NOW_S = 1_780_000_000.0


def data(secret: dict[str, dict[str, str]]) -> dict[str, str]:
    return {name: base64.b64decode(value).decode() for name, value in secret["data"].items()}


def test_secrets_differ_by_key_purpose_and_function_and_are_the_same_each_time() -> None:
    assert derive(b"key", "redis", UID) == derive(b"key", "redis", UID)
    found = {
        derive(key, purpose, uid) for key in (b"key", b"k2") for purpose in ("redis", "invoke") for uid in ("a", "b")
    }
    assert len(found) == 8
    assert all(re.fullmatch(r"[A-Za-z0-9_-]{40}", secret) for secret in found)


def test_a_functions_secret_belongs_to_it_and_holds_its_own_logins() -> None:
    secret = function_secret(cluster_config(), function(), None)
    assert secret["metadata"]["name"] == f"forebay-hello-{UID[:8]}"
    assert secret["metadata"]["ownerReferences"][0]["uid"] == OWNER_UID
    found = data(secret)
    assert json.loads(found["redis.json"]) == {
        "host": "forebay-valkey.forebay.svc",
        "port": 6379,
        "tls": False,
        "db": 0,
        "username": f"forebay-fn-{UID}",
        "password": redis_password(b"key", UID),
        "ca": None,
    }
    assert found["AWS_ACCESS_KEY_ID"] == access_key_id(UID)
    assert re.fullmatch(r"FBFN[A-Z2-7]{16}", found["AWS_ACCESS_KEY_ID"])


def test_where_redis_has_no_users_functions_share_the_one_that_was_chosen() -> None:
    shared = {"host": "redis.example", "username": "shared", "password": "theirs"}
    config = cluster_config(redis_acl="shared", redis_for_functions=shared)
    login = json.loads(data(function_secret(config, function(), "PEM"))["redis.json"])
    assert (login["username"], login["password"], login["ca"]) == ("shared", "theirs", "PEM")


def test_a_functions_own_key_invokes_within_its_namespace_and_manages_nothing() -> None:
    credential = credential_of(b"key", function(), region="us-east-1", now_s=NOW_S)
    assert credential.access_key_id == access_key_id(UID)
    assert credential.allows("invoke", "team-a", "other")
    assert not credential.allows("invoke", "team-b", "other")
    assert not credential.allows("manage", "team-a", "hello")


def test_a_user_may_touch_the_keys_of_its_function_alone() -> None:
    rules = [str(rule) for rule in acl_rules(PlatformKeys("p"), function(), "secret")]
    assert rules[0] == "reset"
    patterns = [rule for rule in rules if rule.startswith("~")]
    assert patterns
    assert all(rule.startswith(f"~p:{{team-a/hello/{UID}}}:") for rule in patterns)
    assert not [rule for rule in rules if rule.startswith(("+@", "allcommands", "allkeys", "+eval ", "+script"))]


def test_functions_users_are_known_by_their_names_and_the_platforms_are_not() -> None:
    assert uid_of_redis_user("forebay", f"forebay-fn-{UID}") == UID
    assert uid_of_redis_user("forebay", "forebay-gateway") == ""
    assert uid_of_redis_user("forebay", "other-fn-1") == ""
