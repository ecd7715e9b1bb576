"""Instances as pods: created when asked for, watched, deleted once their runtime has ended.

Pods outlive the controller. Everything about one is in its labels and status, so that the next leader finds all of them
with one list and goes on. What a pod's status means is in `pod_status.py`, what is in a pod in `pod_template.py`.
"""

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime

from forebay_common import logs
from forebay_common.spec import FunctionSpec
from forebay_controller.background import Background
from forebay_controller.cluster.api import PODS, Api, ApiError, Object
from forebay_controller.cluster.config import ClusterConfig
from forebay_controller.cluster.informer import Informer
from forebay_controller.cluster.ownership import FUNCTION_UID, INSTANCE, REVISION, ROLE, ROLE_FUNCTION, release_selector
from forebay_controller.cluster.pod_status import Phase, PodView, end_of, judge
from forebay_controller.cluster.pod_template import pod_manifest
from forebay_controller.interfaces import ExitReport, InstanceStartError, RunningInstance

STARTS_AT_ONCE_MAX = 200
ENDED_GRACE_S = 1
"""For what is left of a pod whose runtime has ended, or is to be killed. Not 0: that would take the pod from the API
before its containers have ended."""
LAST_ANSWERS_S = 5
"""A runtime whose handlers have ended answers the calls it holds within this."""
STUCK_AFTER_S = 30.0
"""A pod that is still there so long after its grace period has a node that does not answer. It is taken from the API,
so that it holds no place; Redis has given its leases to others long before."""

_log = logs.get(__name__)

Tell = Callable[[Object | None, Object | None], None]
"""Gets a pod as it was and as it is now; None before it was there, or once it is gone."""


class _Pod:
    """One instance's pod, as last seen. `manifest` is None until the watch has told of it."""

    __slots__ = ("creating", "ending", "expected", "manifest", "name", "namespace", "reason", "running", "stuck")

    def __init__(self, namespace: str, name: str, running: RunningInstance) -> None:
        self.namespace = namespace
        self.name = name
        self.running = running
        self.manifest: Object | None = None
        self.reason = ""
        self.creating = False
        self.expected = False
        self.ending = False
        self.stuck: asyncio.TimerHandle | None = None

    @property
    def deleted(self) -> bool:
        """Whether somebody has asked for its end."""
        return self.manifest is not None and "deletionTimestamp" in self.manifest["metadata"]


class PodBackend:
    """`InstanceBackend` on the Kubernetes API."""

    starts_at_once_max = STARTS_AT_ONCE_MAX
    quick_instances_max = None
    replaces_first = True

    def __init__(self, api: Api, config: ClusterConfig, tell: Tell | None = None) -> None:
        """`tell` is told of every change of a pod."""
        self._api = api
        self._config = config
        self._tell = tell
        self._pods: dict[str, _Pod] = {}
        self._report: ExitReport = _nobody
        self._background = Background()
        self._informer = Informer(
            api,
            PODS,
            config.namespaces,
            label_selector=f"{release_selector(config)},{ROLE}={ROLE_FUNCTION}",
            on_change=self._changed,
        )

    def instances(self) -> Mapping[str, RunningInstance]:
        """Those that run or come up, also ones that an earlier controller started."""
        return {instance_id: pod.running for instance_id, pod in self._pods.items()}

    def on_exit(self, report: ExitReport) -> None:
        """Call `report` when an instance is gone."""
        self._report = report

    async def adopt(self, functions: Mapping[str, FunctionSpec]) -> None:
        """Find the pods that are there, and follow them. Raises ApiError when they cannot be listed."""
        await self._informer.start()
        _log.info("found %d pods of %d functions", len(self._pods), len(functions))

    async def failed(self) -> None:
        """Return, by raising its error, when pods are not followed any more."""
        await self._informer.failed()

    async def close(self) -> None:
        """Let go of the instances; they keep running."""
        await self._informer.close()
        for pod in self._pods.values():
            _forget_stuck(pod)
        await self._background.settle(ENDED_GRACE_S)

    async def start(self, spec: FunctionSpec, instance_id: str) -> None:
        """Create a pod. Raises InstanceStartError with the API server's reason: a quota, a policy, a bad field."""
        manifest = pod_manifest(self._config, spec, instance_id)
        running = RunningInstance(instance_id, spec.uid, spec.revision, int(time.time() * 1000))
        # Known before it is created: the watch may tell of it before the answer comes.
        pod = self._pods[instance_id] = _Pod(spec.namespace, manifest["metadata"]["name"], running)
        pod.creating = True
        try:
            await self._api.create(PODS, spec.namespace, manifest, ours=True)
        except ApiError as error:
            if pod.manifest is None:
                self._pods.pop(instance_id, None)
                raise InstanceStartError(_refusal(error)) from error
            _log.info("pod %s is there although its creation failed: %s", pod.name, error)
        finally:
            pod.creating = False
        if pod.expected:
            await self._delete(pod, ENDED_GRACE_S)

    async def stop(self, instance_id: str) -> None:
        """Delete a pod with its own grace period: a runtime that has just come up drains at SIGTERM."""
        pod = self._pods.get(instance_id)
        if pod is not None:
            pod.expected = True
            if not pod.creating:  # else it is deleted as soon as it is there, before a container of it has started
                await self._delete(pod, None)

    async def kill(self, instance_id: str) -> None:
        """End a pod at once, whatever it holds; the report follows when it is gone."""
        pod = self._pods.get(instance_id)
        if pod is not None:
            pod.expected = True
            if not pod.creating:  # else it is deleted as soon as it is there
                await self._delete(pod, ENDED_GRACE_S)

    def _changed(self, old: Object | None, new: Object | None) -> None:
        if self._tell is not None:
            self._tell(old, new)
        known = new or old
        assert known is not None
        instance_id = known["metadata"]["labels"].get(INSTANCE, "")
        if new is None:
            pod = self._pods.get(instance_id)
            if pod is not None and pod.manifest is not None:
                self._gone(pod, pod.reason or end_of(pod.manifest))
            return
        pod = self._pods.get(instance_id)
        if pod is None:
            pod = self._adopted(instance_id, new)
            if pod is None:
                return
        pod.manifest = new
        self._look(pod, judge(new))
        self._expect_end(pod, new)

    def _adopted(self, instance_id: str, manifest: Object) -> _Pod | None:
        """A pod that this controller did not create; None for one that is only a remainder."""
        labels = manifest["metadata"]["labels"]
        created_ms = int(_seconds(manifest["metadata"]["creationTimestamp"]) * 1000)
        try:
            revision = int(labels[REVISION])
            running = RunningInstance(instance_id, labels[FUNCTION_UID], revision, created_ms)
        except (KeyError, ValueError):
            _log.warning("pod %s has not the labels of an instance", manifest["metadata"]["name"])
            return None
        pod = _Pod(manifest["metadata"]["namespace"], manifest["metadata"]["name"], running)
        if judge(manifest).phase is Phase.ENDED and manifest["metadata"].get("deletionTimestamp"):
            return None  # reported before, and as good as gone
        self._pods[instance_id] = pod
        return pod

    def _look(self, pod: _Pod, view: PodView) -> None:
        if view.phase is Phase.ENDED:
            self._delete_later(pod, ENDED_GRACE_S)
            # What it held can be dealt with now. One that left in good order holds a place until it is gone.
            reason = "" if pod.expected else pod.reason or view.reason
            if reason:
                self._gone(pod, reason)
        elif view.phase is Phase.HANDLERS_ENDED:
            if not pod.deleted:
                pod.reason = pod.reason or view.reason
            self._delete_later(pod, LAST_ANSWERS_S)
        else:
            held_up = view.reason if view.phase is Phase.HELD_UP else ""
            if held_up != pod.running.held_up:
                pod.running = replace(pod.running, held_up=held_up)

    def _gone(self, pod: _Pod, reason: str) -> None:
        """Report an instance's end, once."""
        _forget_stuck(pod)
        if self._pods.pop(pod.running.instance_id, None) is not None:
            self._report(pod.running.instance_id, "" if pod.expected else reason)

    def _expect_end(self, pod: _Pod, manifest: Object) -> None:
        """A pod that is being deleted ends within its grace period, or its node does not answer."""
        deletion = manifest["metadata"].get("deletionTimestamp")
        if deletion and pod.stuck is None and pod.running.instance_id in self._pods:
            left_s = max(0.0, _seconds(deletion) - time.time()) + STUCK_AFTER_S
            pod.stuck = asyncio.get_running_loop().call_later(left_s, self._take_away, pod)

    def _take_away(self, pod: _Pod) -> None:
        _log.warning("pod %s/%s does not end, its node does not answer: it is taken away", pod.namespace, pod.name)
        pod.reason = pod.reason or "its node does not answer"
        pod.stuck = None
        self._background.spawn(self._delete(pod, 0), f"take away {pod.name}")

    def _delete_later(self, pod: _Pod, grace_s: int) -> None:
        if not pod.ending:
            pod.ending = True
            self._background.spawn(self._delete(pod, grace_s), f"delete {pod.name}")

    async def _delete(self, pod: _Pod, grace_s: int | None) -> None:
        uid = pod.manifest["metadata"]["uid"] if pod.manifest is not None else None
        try:
            await self._api.delete(PODS, pod.namespace, pod.name, grace_s=grace_s, uid=uid)
        except ApiError as error:
            pod.ending = False  # the next change of its status, or an overdue end, tries again
            _log.warning("pod %s/%s could not be deleted: %s", pod.namespace, pod.name, error)
            return
        if (pod.namespace, pod.name) not in self._informer.objects and pod.manifest is None:
            # It was gone before the watch told of it, and will never be told of.
            self._gone(pod, pod.reason)


def _refusal(error: ApiError) -> str:
    """Why the API server did not take a pod, in words for people."""
    if error.status == 0 or error.may_pass:
        return f"Kubernetes does not take pods at the moment: {error.message}"
    return f"Kubernetes refused its pod: {error.message}"


def _seconds(timestamp: str) -> float:
    return datetime.fromisoformat(timestamp).replace(tzinfo=UTC).timestamp()


def _forget_stuck(pod: _Pod) -> None:
    if pod.stuck is not None:
        pod.stuck.cancel()
        pod.stuck = None


def _nobody(instance_id: str, reason: str) -> None:
    """No one listens yet."""
