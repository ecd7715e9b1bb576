"""What an uninstallation takes back before the chart's own objects go: `python -m forebay_controller.uninstall`.

Functions outlive the release, as their kind does. The platform's finalizer must not: nobody could ever delete them, nor
their namespaces. What was made for them goes too. The controllers end first, since they would make everything anew.
"""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from forebay_common import logs
from forebay_controller.cluster.access import secret_name
from forebay_controller.cluster.api import (
    FUNCTIONS,
    LEASES,
    NETWORK_POLICIES,
    PODS,
    SECRETS,
    Api,
    ApiError,
    Kind,
    Object,
    Objects,
)
from forebay_controller.cluster.config import release_id
from forebay_controller.cluster.informer import Informer
from forebay_controller.cluster.ownership import MANAGED_BY, MANAGER, PART_OF
from forebay_controller.cluster.resource import FINALIZER, read

DEPLOYMENTS = Kind("apps", "v1", "deployments", namespaced=True)
CONTROLLERS_END_S = 60.0
"""How long the controllers get to end; above the grace period that the chart gives them by default."""
PODS_END_S = 30.0
"""How long functions' pods get to finish what they hold while Redis is still there; later they end by themselves."""
CONFLICTS_MAX = 10

_log = logs.get(__name__)


class UninstallError(Exception):
    """It cannot go on; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class Installation:
    """The release to take back; `namespaces` that it served, () for all."""

    release: str
    release_namespace: str
    full_name: str
    namespaces: tuple[str, ...] = ()

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Self:
        """Read it from the controller's configuration. Raises ValueError, saying what is missing."""
        cluster = document.get("cluster") or {}
        missing = [name for name in ("release", "release_namespace", "full_name") if name not in cluster]
        if missing:
            raise ValueError(f"the configuration's member cluster lacks {' and '.join(missing)}")
        return cls(
            cluster["release"],
            cluster["release_namespace"],
            cluster["full_name"],
            tuple(cluster.get("namespaces") or ()),
        )

    @property
    def selector(self) -> str:
        """Finds what the release's controller made."""
        return f"{MANAGED_BY}={MANAGER},{PART_OF}={release_id(self.release_namespace, self.release)}"


def read_installation(path: Path) -> Installation:
    """The release that a configuration file is of. Raises OSError, or ValueError."""
    return Installation.from_json(json.loads(path.read_text("utf-8")))


def without_finalizer(function: Object) -> Object | None:
    """The patch that takes the platform's finalizer from a Function and no other, None when it has none (pure)."""
    metadata = function["metadata"]
    finalizers = metadata.get("finalizers") or []
    if FINALIZER not in finalizers:
        return None
    kept = [name for name in finalizers if name != FINALIZER]
    return {"metadata": {"finalizers": kept, "resourceVersion": metadata["resourceVersion"]}}


async def uninstall(api: Api, installation: Installation) -> None:
    """Take back what the platform made. Raises ApiError, or UninstallError."""
    await _end_controllers(api, installation)
    functions = await _list(api, installation, FUNCTIONS)
    policies = await _list(api, installation, NETWORK_POLICIES, installation.selector)
    pods = await _end_pods(api, installation)
    await asyncio.gather(*(_forget(api, function) for function in functions))
    await _delete_all(api, NETWORK_POLICIES, policies)
    await api.delete(LEASES, installation.release_namespace, f"{installation.full_name}-controller")
    _log.info(
        "taken back: %d pods, %d network policies; %d Functions stay, without finalizers",
        *(pods, len(policies), len(functions)),
    )


async def _end_controllers(api: Api, installation: Installation) -> None:
    name = f"{installation.full_name}-controller"
    try:
        await api.merge_patch(
            DEPLOYMENTS, installation.release_namespace, name, {"spec": {"replicas": 0}}, subresource="scale"
        )
    except ApiError as error:
        if error.reason != "NotFound":
            raise
        _log.info("there is no Deployment %s: no controller to end", name)
    instance = f"app.kubernetes.io/instance={installation.release}"
    selector = f"app.kubernetes.io/component=controller,{instance}"
    async with _pods(api, (installation.release_namespace,), selector) as pods:
        left = await pods.ended(CONTROLLERS_END_S)
    if left:
        raise UninstallError(f"controllers do not end: {', '.join(left)}; delete their pods, then uninstall again")


async def _end_pods(api: Api, installation: Installation) -> int:
    """Delete functions' pods, and let them finish; gives how many there were."""
    async with _pods(api, installation.namespaces, installation.selector) as pods:
        found = [*pods.informer.objects.values()]
        await _delete_all(api, PODS, found)
        left = await pods.ended(PODS_END_S)
    if left:
        _log.warning("%d pods of functions still finish what they hold, without Redis", len(left))
    return len(found)


class _Pods:
    """Pods that are watched until they are gone."""

    def __init__(self, api: Api, namespaces: tuple[str, ...], selector: str) -> None:
        self._changed = asyncio.Event()
        self.informer = Informer(
            api, PODS, namespaces, label_selector=selector, on_change=lambda _old, _new: self._changed.set()
        )

    async def ended(self, within_s: float) -> list[str]:
        """Wait until none is left; gives the names of those that are after all."""
        try:
            async with asyncio.timeout(within_s):
                while self.informer.objects:
                    await self._changed.wait()
                    self._changed.clear()
        except TimeoutError:
            return [name for _, name in self.informer.objects]
        return []


@contextlib.asynccontextmanager
async def _pods(api: Api, namespaces: tuple[str, ...], selector: str) -> AsyncIterator[_Pods]:
    pods = _Pods(api, namespaces, selector)
    await pods.informer.start()
    try:
        yield pods
    finally:
        await pods.informer.close()


async def _list(api: Api, installation: Installation, kind: Kind, selector: str = "") -> Objects:
    """All of a kind where the release served; none when the cluster does not know the kind."""
    found: Objects = []
    for namespace in installation.namespaces or (None,):
        try:
            items, _ = await api.list(kind, namespace, label_selector=selector)
        except ApiError as error:
            if error.reason != "NotFound":
                raise
            continue
        found += items
    return found


async def _delete_all(api: Api, kind: Kind, objects: Objects) -> None:
    await asyncio.gather(
        *(
            api.delete(kind, o["metadata"]["namespace"], o["metadata"]["name"], uid=o["metadata"]["uid"])
            for o in objects
        )
    )


async def _forget(api: Api, function: Object) -> None:
    """Delete a Function's Secret, then take the finalizer from it."""
    metadata = function["metadata"]
    await api.delete(SECRETS, metadata["namespace"], secret_name(read(function).spec))
    for _ in range(CONFLICTS_MAX):
        patch = without_finalizer(function)
        if patch is None:
            return
        try:
            await api.merge_patch(FUNCTIONS, metadata["namespace"], metadata["name"], patch)
        except ApiError as error:
            if error.reason == "NotFound":
                return
            if error.reason != "Conflict":
                raise
            function = await api.get(FUNCTIONS, metadata["namespace"], metadata["name"])
        else:
            return
    raise UninstallError(f"Function {metadata['namespace']}/{metadata['name']} changes all the time: uninstall again")
