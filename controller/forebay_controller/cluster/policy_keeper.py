"""Keeps the NetworkPolicies of functions' namespaces as they should be.

What they should be depends on the functions, on the nodes' addresses and on the API server's; all three are watched,
and so are the policies themselves, so that one that somebody changed or deleted is made again.
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping

from forebay_common import limits, logs
from forebay_common.spec import FunctionSpec
from forebay_controller.background import end_tasks
from forebay_controller.cluster.acceptance import PrepareError
from forebay_controller.cluster.api import ENDPOINT_SLICES, NETWORK_POLICIES, Api, ApiError, Kind, Object
from forebay_controller.cluster.config import ClusterConfig
from forebay_controller.cluster.egress import Surroundings
from forebay_controller.cluster.egress_text import EgressError
from forebay_controller.cluster.informer import Informer, Key
from forebay_controller.cluster.network_policies import policies_for
from forebay_controller.cluster.ownership import release_selector

NODES = Kind("", "v1", "nodes", namespaced=False)
API_SERVER_NAMESPACE = "default"
API_SERVER_SELECTOR = "kubernetes.io/service-name=kubernetes"
RETRY_S = 2.0
RETRY_MOST_S = 60.0
UNUSED_FOR_S = limits.TIMEOUT_MAX_S + 120.0
"""A policy goes when no function has needed it for so long: by then no instance of one that did can be running, which
would otherwise lose what it may reach, or gain what it may not."""

_log = logs.get(__name__)


def node_addresses(nodes: Iterable[Object]) -> frozenset[str]:
    """All addresses of nodes (pure)."""
    return frozenset(
        address["address"]
        for node in nodes
        for address in (node.get("status") or {}).get("addresses") or ()
        if address["type"] in {"InternalIP", "ExternalIP"}
    )


def endpoint_addresses(slices: Iterable[Object]) -> frozenset[str]:
    """All addresses in EndpointSlices (pure)."""
    return frozenset(
        address
        for item in slices
        if item.get("addressType") != "FQDN"
        for endpoint in item.get("endpoints") or ()
        for address in endpoint["addresses"]
    )


class PolicyKeeper:
    """`functions()` gives all functions that are served; `api_server_service` the API server's Service address."""

    def __init__(
        self,
        api: Api,
        config: ClusterConfig,
        functions: Callable[[], Mapping[str, FunctionSpec]],
        *,
        api_server_service: str = "",
    ) -> None:
        self._api = api
        self._config = config
        self._functions = functions
        self._service = frozenset({api_server_service} - {""})
        self._policies = Informer(
            api, NETWORK_POLICIES, config.namespaces, label_selector=release_selector(config), on_change=self._changed
        )
        self._endpoints = Informer(
            api,
            ENDPOINT_SLICES,
            (API_SERVER_NAMESPACE,),
            label_selector=API_SERVER_SELECTOR,
            on_change=self._changed,
        )
        self._nodes = Informer(api, NODES, on_change=self._changed)
        self._surroundings = Surroundings()
        self._again = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._writing = asyncio.Lock()
        self._unused_since_s: dict[Key, float] = {}

    @property
    def _informers(self) -> list[Informer]:
        return [self._policies, self._endpoints, *([self._nodes] if self._config.network_policy.read_nodes else [])]

    async def start(self) -> None:
        """Begin to watch. Raises ApiError when something cannot be listed."""
        if not self._config.network_policy.enabled:
            return
        await asyncio.gather(*(informer.start() for informer in self._informers))
        self._surroundings = self._look_round()
        self._again.set()
        self._task = asyncio.create_task(self._keep(), name="network policies")

    async def close(self) -> None:
        """Stop; policies stay."""
        if self._task is None:
            return
        await end_tasks([self._task])
        await asyncio.gather(*(informer.close() for informer in self._informers))

    def cluster_addresses(self) -> frozenset[str]:
        """The nodes' and the API server's addresses as far as they are watched; no I/O."""
        return self._surroundings.nodes | self._surroundings.api_server

    async def ensure(self, spec: FunctionSpec) -> None:
        """Return once the policies that a function's pods need are there. Raises ApiError, PrepareError."""
        if not self._config.network_policy.enabled:
            return
        try:
            wanted = policies_for(self._config, spec.namespace, [spec.pod.egress], self._surroundings)
        except EgressError as error:
            raise PrepareError("InvalidEgress", str(error), may_pass=False) from error
        async with self._writing:
            await self._apply(wanted)

    def _changed(self, _old: Object | None, _new: Object | None) -> None:
        self._again.set()

    def _look_round(self) -> Surroundings:
        settings = self._config.network_policy
        return Surroundings(
            nodes=node_addresses(self._nodes.objects.values()),
            api_server=endpoint_addresses(self._endpoints.objects.values()) | self._service,
            blocked=tuple(settings.blocked_cidrs),
            cluster=tuple(settings.cluster_cidrs),
        )

    async def _keep(self) -> None:
        failures = 0
        while True:
            await self._again.wait()
            self._again.clear()
            self._surroundings = self._look_round()
            async with self._writing:
                wanted, all_right = await self._put_right()
                if all_right:
                    all_right = await self._clear_away(wanted)
            failures = 0 if all_right else failures + 1
            if failures:
                await self._wait_for_change(min(RETRY_MOST_S, RETRY_S * 2 ** min(failures - 1, 10)))

    async def _wait_for_change(self, at_most_s: float) -> None:
        """Until something is different, or it is time to try the same again."""
        try:
            async with asyncio.timeout(at_most_s):
                await self._again.wait()
        except TimeoutError:
            self._again.set()

    async def _put_right(self) -> tuple[set[Key], bool]:
        """Apply what differs in every namespace with functions; gives which policies these are, and whether all are."""
        egresses: dict[str, set[str]] = {}
        for spec in self._functions().values():
            egresses.setdefault(spec.namespace, set()).add(spec.pod.egress)
        wanted: set[Key] = set()
        all_right = True
        for namespace, asked in egresses.items():
            found = policies_for(self._config, namespace, asked, self._surroundings)
            wanted.update((namespace, name) for name in found)
            try:
                await self._apply(found)
            except ApiError as error:
                # Others do not wait for it.
                if not error.namespace_ends:
                    _log.warning("the network policies of namespace %s could not be put right: %s", namespace, error)
                all_right = False
        return wanted, all_right

    async def _clear_away(self, wanted: set[Key]) -> bool:
        """Delete what no function has needed for long; False when that did not work."""
        loop = asyncio.get_running_loop()
        for key in wanted & self._unused_since_s.keys():
            del self._unused_since_s[key]
        for key in self._policies.objects.keys() - wanted:
            if key not in self._unused_since_s:
                self._unused_since_s[key] = loop.time()
                loop.call_later(UNUSED_FOR_S + 1, self._again.set)
        for key, since_s in [*self._unused_since_s.items()]:
            if loop.time() - since_s < UNUSED_FOR_S:
                continue
            try:
                await self._api.delete(NETWORK_POLICIES, *key)
            except ApiError as error:
                _log.warning("the unneeded network policy %s/%s could not be deleted: %s", *key, error)
                return False
            del self._unused_since_s[key]
        return True

    async def _apply(self, policies: Mapping[str, Object]) -> None:
        """Write those that are not as they should be. Raises ApiError."""
        for name, policy in policies.items():
            namespace = policy["metadata"]["namespace"]
            known = self._policies.objects.get((namespace, name))
            if known is None or not _same(known, policy):
                written = await self._api.apply(NETWORK_POLICIES, namespace, name, policy)
                self._policies.put(written)


def _same(known: Object, wanted: Object) -> bool:
    """Whether a policy is as it should be; what the API server leaves out when it is empty counts as empty."""
    spec = known["spec"]
    return all(spec.get(name, []) == value for name, value in wanted["spec"].items()) and all(
        known["metadata"].get("labels", {}).get(name) == value for name, value in wanted["metadata"]["labels"].items()
    )
