"""A Function's status, from what the leader knows."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from forebay_controller.cluster.events import changes
from forebay_controller.cluster.pod_status import judge
from forebay_controller.cluster.resource import read
from forebay_controller.cluster.status import (
    Accepted,
    Facts,
    Problem,
    build,
    difference,
    figures_only,
    read_observed,
    why_word,
)
from forebay_controller.interfaces import FunctionStatus
from support.function_crd import schema
from support.function_objects import function_object, image_object, published

NOW = datetime(2026, 2, 3, 4, 5, 6, tzinfo=UTC)
LATER = NOW + timedelta(minutes=5)
WRONG_CODE = Problem("code", "DigestMismatch", "another digest", may_pass=False)
FAILING = FunctionStatus(cannot_start="its image cannot be pulled: no such tag", retry_at_ms=1_800_000_000_000)


def facts(item: dict[str, Any] | None = None, *, accepted: bool = True, **more: Any) -> Facts:
    resource = read(published(function_object()) if item is None else item)
    source = "" if resource.code is None else resource.code.fingerprint
    fields: dict[str, Any] = {
        "resource": resource,
        "accepted": Accepted(resource.spec, resource.generation, source) if accepted else None,
        "problem": None,
        "observed": FunctionStatus(),
        "applied_revision": 0,
        "selector": "a=b",
        "image": "forebay-runtime:1",
        "redis_shared": False,
    }
    return Facts(**{**fields, **more})


def conditions(status: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {item["type"]: item for item in status["conditions"]}


def test_it_writes_what_the_schema_knows_and_nothing_else() -> None:
    fields = schema()["properties"]["status"]["properties"]
    image = published(image_object())
    for known in (
        facts(),
        facts(image),
        facts(function_object(), accepted=False, problem=WRONG_CODE),
        facts(problem=WRONG_CODE, observed=replace(FAILING, reason="its image cannot be pulled", queued=3)),
    ):
        status = build(known, {}, NOW)
        assert status.keys() <= fields.keys()
        for condition in status["conditions"]:
            assert condition.keys() <= fields["conditions"]["items"]["properties"].keys()


def test_a_function_that_waits_for_its_first_call_is_ready() -> None:
    status = build(facts(), {}, NOW)
    assert (status["ready"], status["reason"], status["message"], status["state"]) == ("True", "", "", "Active")
    found = conditions(status)
    assert {kind: item["status"] for kind, item in found.items()} == {
        "Ready": "True",
        "CodeReady": "True",
        "InstancesHealthy": "True",
    }
    assert found["InstancesHealthy"]["reason"] == "NoneNeeded"
    assert status["invokePath"] == "/ns/team/fn/hello"


def test_what_has_not_changed_is_no_difference() -> None:
    known = facts(observed=FAILING)
    status = build(known, {}, NOW)
    assert difference(status, build(known, status, LATER)) == {}


def test_a_condition_keeps_the_moment_of_its_last_change() -> None:
    first = build(facts(), {}, NOW)
    failing = build(facts(observed=FAILING), first, LATER)
    assert conditions(failing)["Ready"]["lastTransitionTime"] == "2026-02-03T04:10:06Z"
    assert conditions(failing)["CodeReady"]["lastTransitionTime"] == "2026-02-03T04:05:06Z"


def test_calls_that_come_and_go_change_figures_only() -> None:
    idle = build(facts(observed=FunctionStatus(capacity=2, idle=2)), {}, NOW)
    busy = build(
        facts(observed=FunctionStatus(capacity=2, idle=1, busy=1, queued=4, in_flight=1, dead_letters=3)), idle, NOW
    )
    assert figures_only(difference(idle, busy))
    more = build(facts(observed=FunctionStatus(capacity=3, idle=2, starting=1)), idle, NOW)
    assert not figures_only(difference(idle, more))


def test_a_function_that_cannot_start_names_the_next_command() -> None:
    status = build(facts(observed=FAILING), {}, NOW)
    assert status["ready"] == "False: kubectl describe fn hello -n team"
    assert status["reason"] == "ImagePullFailed"
    assert "Next: kubectl describe pods -n team -l a=b" in status["message"]
    assert status["cannotStart"] == FAILING.cannot_start
    assert conditions(status)["InstancesHealthy"]["status"] == "False"


def test_a_handler_that_does_not_come_up_is_told_with_the_next_command() -> None:
    failure = "Runtime.ImportModuleError: Unable to import module 'app': No module named 'x'"
    observed = FunctionStatus(capacity=1, idle=1, init_failure=failure, reason=f"no handler comes up: {failure}")
    status = build(facts(observed=observed), {}, NOW)
    assert status["ready"] == "False: kubectl describe fn hello -n team"
    assert (status["reason"], status["cannotStart"]) == ("InitFailed", "")
    assert failure in status["message"]
    assert "Next: kubectl logs -n team -l a=b -c runtime" in status["message"]
    assert read_observed(status).init_failure == failure
    told = [event for event in changes(build(facts(), {}, NOW), status) if event.type == "Warning"]
    assert [(event.reason, event.note) for event in told] == [("InitFailed", failure)]


def test_a_redis_user_that_all_functions_share_is_told() -> None:
    isolated = conditions(build(facts(redis_shared=True), {}, NOW))["Isolated"]
    assert (isolated["status"], isolated["reason"]) == ("False", "SharedRedisUser")
    assert "redis.acl is shared" in isolated["message"]
    assert "Isolated" not in conditions(build(facts(), {}, NOW))


def test_it_names_the_image_that_handlers_run_in() -> None:
    assert build(facts(), {}, NOW)["image"] == "forebay-runtime:1"


def test_a_change_that_cannot_be_applied_leaves_it_ready_as_of_before() -> None:
    item = published(function_object())
    item["metadata"]["generation"] = 2
    accepted = Accepted(read(item).spec, 1, "inline:0")
    status = build(replace(facts(item), accepted=accepted, problem=WRONG_CODE), {}, NOW)
    assert (status["ready"], status["reason"], status["updateFailed"]) == ("True", "DigestMismatch", "another digest")
    assert status["observedGeneration"] == 2
    found = conditions(status)
    assert (found["Ready"]["status"], found["Ready"]["observedGeneration"]) == ("True", 1)
    assert found["CodeReady"]["status"] == "False"


@pytest.mark.parametrize(("may_pass", "state"), [(True, "Pending"), (False, "Failed")])
def test_a_new_function_without_code_is_pending_or_failed(*, may_pass: bool, state: str) -> None:
    problem = Problem("code", "DownloadFailed", "no answer", may_pass=may_pass)
    status = build(facts(function_object(), accepted=False, problem=problem), {}, NOW)
    assert (status["state"], status["reason"], status["message"]) == (state, "DownloadFailed", "no answer")
    assert status["ready"].startswith("False: kubectl describe")


def test_nothing_is_said_to_be_observed_before_it_was_acted_on() -> None:
    status = build(facts(function_object(), accepted=False), {}, NOW)
    assert "observedSpec" not in status
    assert "observedGeneration" not in status
    assert conditions(status)["Ready"]["status"] == "Unknown"


def test_a_bound_that_holds_calls_back_is_no_illness() -> None:
    reason = "calls wait: it runs as many instances as it may (2)"
    status = build(facts(observed=FunctionStatus(capacity=2, busy=2, reason=reason, held_back=True)), {}, NOW)
    healthy = conditions(status)["InstancesHealthy"]
    assert (healthy["status"], healthy["reason"], healthy["message"]) == ("True", "MaximumReached", reason)
    full = FunctionStatus(reason="calls wait: the platform runs as many instances as it may", held_back=True)
    assert conditions(build(facts(observed=full), {}, NOW))["InstancesHealthy"]["reason"] == "PlatformFull"


@pytest.mark.parametrize(
    "observed",
    [
        FunctionStatus(),
        FunctionStatus(capacity=4, starting=1, idle=2, busy=1, draining=3, queued=7, in_flight=1, dead_letters=9),
        replace(FAILING, reason=FAILING.cannot_start),
        FunctionStatus(reason="calls wait: the platform runs as many instances as it may", held_back=True),
        FunctionStatus(capacity=1, idle=1, reason="an instance did not start: no room"),
    ],
)
def test_another_replica_reads_what_the_leader_wrote(observed: FunctionStatus) -> None:
    assert read_observed(build(facts(observed=observed), {}, NOW)) == observed


def test_an_older_applied_revision_does_not_come_back() -> None:
    assert build(facts(applied_revision=0), {"appliedRevision": 3}, NOW)["appliedRevision"] == 3


@pytest.mark.parametrize(
    ("container", "word"),
    [
        ({"waiting": {"reason": "ImagePullBackOff", "message": "x"}}, "ImagePullFailed"),
        (
            {"waiting": {"reason": "CreateContainerConfigError", "message": 'secret "x" not found'}},
            "ContainerConfigError",
        ),
        ({"terminated": {"reason": "OOMKilled", "exitCode": 137}}, "OutOfMemory"),
    ],
)
def test_what_a_pod_says_has_a_word(container: dict[str, Any], word: str) -> None:
    runtime = {"name": "runtime", "state": {"running": {}}}
    statuses = [runtime, {"name": "handlers", "state": container}]
    assert why_word(judge({"status": {"containerStatuses": statuses}}).reason) == word


def test_a_pod_without_a_node_is_unschedulable() -> None:
    condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/1 nodes"}
    assert why_word(judge({"status": {"conditions": [condition]}}).reason) == "Unschedulable"
    assert why_word("something else") == "StartFailed"


def events(before: dict[str, Any], after: dict[str, Any]) -> list[tuple[str, str]]:
    return [(event.type, event.reason) for event in changes(before, after)]


def test_events_tell_what_became_of_a_function() -> None:
    new = build(facts(), {}, NOW)
    assert events({}, new) == [("Normal", "Revision"), ("Normal", "CodeStored")]
    assert events(new, build(facts(), new, LATER)) == []
    failing = build(facts(observed=FAILING), new, LATER)
    assert events(new, failing) == [("Warning", "ImagePullFailed")]
    assert events(failing, new) == [("Normal", "Ready")]
    scaled = build(facts(observed=FunctionStatus(starting=3)), new, LATER)
    assert events(new, scaled) == [("Normal", "Scaled")]
    refused = build(facts(problem=WRONG_CODE), new, LATER)
    assert events(new, refused) == [("Warning", "DigestMismatch")]
    problem = Problem("spec", "Invalid", "no", may_pass=False)
    assert events(new, build(facts(problem=problem), new, LATER)) == [("Warning", "UpdateFailed")]
