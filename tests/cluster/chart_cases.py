"""For each value of the chart: what setting it changes in what the chart makes."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from .chart import CONFIGURATION, merged, nested

GATEWAY = "Deployment/forebay-gateway"
CONTROLLER = "Deployment/forebay-controller"
VALKEY = "StatefulSet/forebay-valkey"
SECRETS_JOB = "Job/forebay-secrets"
GATEWAY_CONFIGURATION = f"{CONFIGURATION}gateway"
CONTROLLER_CONFIGURATION = f"{CONFIGURATION}controller"
POD = "spec/template/spec"
CONTAINER = f"{POD}/containers/0"
DIGEST = f"sha256:{'ab' * 32}"
ALONE, EXTERNAL, SEVERAL = "alone", "external Redis", "external Redis of several servers"
_SAME = object()


@dataclass(frozen=True)
class Case:
    """`value` set to `given`, with `also` beside it, puts `expected` at `path` of the object `where`.

    Cases of one `group` may share a rendering; `ALONE` is no group.
    """

    value: str
    given: Any
    where: str
    path: str
    expected: Any = _SAME
    also: Mapping[str, Any] = field(default_factory=dict)
    group: str = ""

    @property
    def wanted(self) -> Any:
        """What must be there: what was given unless the case says otherwise."""
        return self.given if self.expected is _SAME else self.expected

    @property
    def values(self) -> dict[str, Any]:
        """The values file that it needs."""
        return merged(self.also, nested(self.value, self.given))


def renderings() -> list[tuple[dict[str, Any], list[Case]]]:
    """All cases, with the values files by which few renderings show them all."""
    found: list[tuple[dict[str, Any], list[Case]]] = []
    for case in cases():
        for index, (values, members) in enumerate(found):
            if _fits(case, values, members):
                found[index] = (merged(values, case.values), [*members, case])
                break
        else:
            found.append((case.values, [case]))
    return found


def _fits(case: Case, values: Mapping[str, Any], members: list[Case]) -> bool:
    """Whether a case can be shown by a rendering: no value, and no place looked at, is wanted to be two things."""
    if case.group != members[0].group or (case.group == ALONE and case.values != values):
        return False
    places = {(member.where, member.path): member.wanted for member in members}
    return places.get((case.where, case.path), case.wanted) == case.wanted and _agree(values, case.values)


def _agree(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    for key in one.keys() & other.keys():
        both = isinstance(one[key], Mapping) and isinstance(other[key], Mapping)
        if not (_agree(one[key], other[key]) if both else one[key] == other[key]):
            return False
    return True


def cases() -> list[Case]:
    """All of them."""
    return [*_names(), *_platform(), *_functions(), *_components(), *_own(), *_ways_in(), *_stores(), *_watching()]


def _names() -> Iterator[Case]:
    labels = {"team": "shop"}
    yield Case(
        "nameOverride",
        "pool",
        "Deployment/forebay-pool-gateway",
        "metadata/labels/app.kubernetes.io~name",
        "pool",
        group=ALONE,
    )
    yield Case("fullnameOverride", "pool", "Deployment/pool-gateway", "metadata/name", "pool-gateway", group=ALONE)
    for where in (GATEWAY, "ClusterRole/forebay-forebay-controller", "CustomResourceDefinition/functions.forebay.dev"):
        yield Case("commonLabels", labels, where, "metadata/labels/team", "shop")
        yield Case("commonAnnotations", labels, where, "metadata/annotations/team", "shop")
    yield Case("commonLabels", labels, GATEWAY, "spec/template/metadata/labels/team", "shop")
    host = "forebay-valkey.forebay.svc.example.internal"
    yield Case("clusterDomain", "example.internal", GATEWAY_CONFIGURATION, "redis/host", host, group=ALONE)
    image = "registry.example.com/team/forebay-gateway:0.1.0"
    yield Case("image.registry", "registry.example.com/team/", GATEWAY, f"{CONTAINER}/image", image, group=ALONE)
    yield Case("image.tag", "1.2", VALKEY, f"{CONTAINER}/image", "forebay-valkey:1.2", group=ALONE)
    for where in (GATEWAY, CONTROLLER, VALKEY, SECRETS_JOB):
        yield Case("image.pullPolicy", "Always", where, f"{CONTAINER}/imagePullPolicy")
        yield Case("image.pullSecrets", [{"name": "registry"}], where, f"{POD}/imagePullSecrets")
        for name in ("runAsUser", "runAsGroup", "fsGroup"):
            yield Case(f"podSecurityContext.{name}", 1000, where, f"{POD}/securityContext/{name}")
            yield Case(f"podSecurityContext.{name}", None, where, f"{POD}/securityContext/{name}", group=ALONE)
    yield Case("crds.install", False, "CustomResourceDefinition/functions.forebay.dev", "kind", None, group=ALONE)


def _platform() -> Iterator[Case]:
    two = ["a", "b"]
    in_a = {"defaultNamespace": "a"}
    yield Case("namespaces", two, CONTROLLER_CONFIGURATION, "cluster/namespaces", also=in_a, group=ALONE)
    yield Case(
        "namespaces", two, CONTROLLER_CONFIGURATION, "cluster/network_policy/read_nodes", False, also=in_a, group=ALONE
    )
    yield Case("namespaces", two, "Role/b/forebay-controller", "metadata/namespace", "b", also=in_a, group=ALONE)
    yield Case("namespaces", two, "RoleBinding/a/forebay-controller", "roleRef/kind", "Role", also=in_a, group=ALONE)
    for where in (GATEWAY_CONFIGURATION, CONTROLLER_CONFIGURATION):
        yield Case("defaultNamespace", "shop", where, "namespace")
        yield Case("region", "eu-central-1", where, "region")
        yield Case("account", "123456789012", where, "account")
        yield Case("prefix", "pool", where, "prefix", group=ALONE)
        yield Case("auth", "off", where, "auth")
        yield Case("auth", False, where, "auth", "off")
        yield Case("logLevel", "debug", where, "log_level")
    yield Case("listenAddress", "::", GATEWAY_CONFIGURATION, "host")
    yield Case("listenAddress", "::", CONTROLLER_CONFIGURATION, "cluster/host")
    yield Case("retryDelaysSeconds", [0.5, 7], CONTROLLER_CONFIGURATION, "retry_delays_s")
    yield Case("results.retentionSeconds", 60, CONTROLLER_CONFIGURATION, "result_retention_s")
    yield Case("idempotency.retentionSeconds", 90, GATEWAY_CONFIGURATION, "idempotency_retention_s")
    yield Case("instancesMax", 7, CONTROLLER_CONFIGURATION, "instances_max")
    yield Case("outbound.allowHttp", True, CONTROLLER_CONFIGURATION, "cluster/outbound/allow_http")
    yield Case(
        "outbound.allowHttp", True, "NetworkPolicy/forebay-controller", "spec/egress/3/ports/1/port", 80, group=ALONE
    )
    yield Case("outbound.allowed", ["10.1.0.0/16"], CONTROLLER_CONFIGURATION, "cluster/outbound/allowed")
    aggregated = "ClusterRole/forebay-forebay-edit"
    yield Case("rbac.aggregate", True, aggregated, "rules/0/resources", ["functions"])
    yield Case("rbac.aggregate", False, aggregated, "kind", None)
    yield Case("rbac.aggregate", True, aggregated, "kind", None, also={"namespaces": ["a"], **in_a}, group=ALONE)


def _functions() -> Iterator[Case]:
    runtimes = {"python3.12": {"image": "example.com/python:3.12"}}
    yield Case(
        "runtimes", runtimes, CONTROLLER_CONFIGURATION, "cluster/runtimes/python3.12/image", "example.com/python:3.12"
    )
    managed = "cluster/runtimes/python3.13/image"
    yield Case("runtimeImage.repository", "mine", CONTROLLER_CONFIGURATION, managed, "mine:0.1.0", group=ALONE)
    yield Case(
        "runtimeImage.tag", "2", CONTROLLER_CONFIGURATION, "cluster/runtime_image", "forebay-runtime:2", group=ALONE
    )
    pinned = f"forebay-runtime@{DIGEST}"
    yield Case("runtimeImage.digest", DIGEST, CONTROLLER_CONFIGURATION, "cluster/runtime_image", pinned, group=ALONE)
    for value, given, member in (
        ("imagePullPolicy", "Always", "image_pull_policy"),
        ("imagePullSecrets", ["registry"], "image_pull_secrets"),
        ("podLabels", {"team": "shop"}, "pod/labels"),
        ("podAnnotations", {"team": "shop"}, "pod/annotations"),
        ("nodeSelector", {"pool": "functions"}, "pod/node_selector"),
        ("tolerations", [{"operator": "Exists"}], "pod/tolerations"),
        ("affinity", {"nodeAffinity": {}}, "pod/affinity"),
        ("topologySpreadConstraints", [{"maxSkew": 2}], "pod/topology_spread_constraints"),
        ("priorityClassName", "low", "pod/priority_class_name"),
        ("runtimeClassName", "gvisor", "pod/runtime_class_name"),
    ):
        yield Case(f"functions.{value}", given, CONTROLLER_CONFIGURATION, f"cluster/{member}")
    member = "cluster/pod/runtime_resources/limits/cpu"
    yield Case("functions.runtimeResources", {"limits": {"cpu": "2"}}, CONTROLLER_CONFIGURATION, member, "2")


def _components() -> Iterator[Case]:
    """What gateway, controller and Valkey have alike."""
    for component, where in (("gateway", GATEWAY), ("controller", CONTROLLER), ("valkey", VALKEY)):
        name = f"forebay-{component}"
        yield Case(f"{component}.image.repository", "mine", where, f"{CONTAINER}/image", "mine:0.1.0")
        yield Case(f"{component}.image.tag", "2", where, f"{CONTAINER}/image", f"{name}:2", group=ALONE)
        yield Case(f"{component}.image.digest", DIGEST, where, f"{CONTAINER}/image", f"{name}@{DIGEST}")
        yield Case(f"{component}.resources", {"limits": {"cpu": "3"}}, where, f"{CONTAINER}/resources/limits/cpu", "3")
        yield Case(f"{component}.priorityClassName", "high", where, f"{POD}/priorityClassName")
        yield Case(f"{component}.nodeSelector", {"pool": "platform"}, where, f"{POD}/nodeSelector")
        yield Case(f"{component}.tolerations", [{"operator": "Exists"}], where, f"{POD}/tolerations")
        yield Case(f"{component}.affinity", {"podAntiAffinity": {}}, where, f"{POD}/affinity")
        zones = [{"maxSkew": 2, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule"}]
        constraint = f"{POD}/topologySpreadConstraints/0"
        yield Case(f"{component}.topologySpreadConstraints", zones, where, f"{constraint}/topologyKey", "zone")
        own = f"{constraint}/labelSelector/matchLabels/app.kubernetes.io~component"
        yield Case(f"{component}.topologySpreadConstraints", zones, where, own, component)
        variable = [{"name": "A", "value": "1"}]
        index = 1 if component == "controller" else 0
        yield Case(f"{component}.extraEnv", variable, where, f"{CONTAINER}/env/{index}", variable[0])
        volumes = {"gateway": 3, "controller": 5, "valkey": 3}[component]
        volume = [{"name": "more", "emptyDir": {}}]
        yield Case(f"{component}.extraVolumes", volume, where, f"{POD}/volumes/{volumes}", volume[0])
        mounts = {"gateway": 3, "controller": 5, "valkey": 4}[component]
        mount = [{"name": "more", "mountPath": "/more"}]
        yield Case(f"{component}.extraVolumeMounts", mount, where, f"{CONTAINER}/volumeMounts/{mounts}", mount[0])
        for what in ("Labels", "Annotations"):
            path = f"spec/template/metadata/{what.lower()}/team"
            yield Case(f"{component}.pod{what}", {"team": "shop"}, where, path, "shop")
        account = f"ServiceAccount/{name}"
        annotations = f"{component}.serviceAccount.annotations"
        yield Case(annotations, {"team": "shop"}, account, "metadata/annotations/team", "shop")


def _own() -> Iterator[Case]:
    """What only one of them has."""
    for component, where in (("gateway", GATEWAY), ("controller", CONTROLLER)):
        budget = f"PodDisruptionBudget/forebay-{component}"
        yield Case(f"{component}.replicas", 5, where, "spec/replicas")
        yield Case(f"{component}.replicas", 1, budget, "kind", None, group=ALONE)
        yield Case(f"{component}.podDisruptionBudget.enabled", True, budget, "spec/maxUnavailable", 1)
        yield Case(f"{component}.podDisruptionBudget.enabled", False, budget, "kind", None, group=ALONE)
    yield Case("gateway.allowedHosts", ["a.example"], GATEWAY_CONFIGURATION, "allowed_hosts")
    yield Case("gateway.waitingMax", 7, GATEWAY_CONFIGURATION, "waiting_max")
    yield Case("gateway.stopSeconds", 7, GATEWAY_CONFIGURATION, "stop_s")
    yield Case("gateway.stopSeconds", 7, GATEWAY, f"{POD}/terminationGracePeriodSeconds", 22, group=ALONE)
    yield Case("gateway.drainSeconds", 7, GATEWAY, f"{CONTAINER}/lifecycle/preStop/sleep/seconds")
    yield Case("controller.stopSeconds", 7, CONTROLLER, f"{POD}/terminationGracePeriodSeconds")
    for value, member in (("lease", "lease_duration_s"), ("renew", "renew_deadline_s"), ("retry", "retry_period_s")):
        given = {"lease": 11, "renew": 9, "retry": 1}[value]
        yield Case(f"controller.leaderElection.{value}Seconds", given, CONTROLLER_CONFIGURATION, f"cluster/{member}")
    yield Case("hooks.resources", {"limits": {"cpu": "3"}}, SECRETS_JOB, f"{CONTAINER}/resources/limits/cpu", "3")
    yield Case("hooks.deadlineSeconds", 7, SECRETS_JOB, "spec/activeDeadlineSeconds")
    yield Case("hooks.deadlineSeconds", 7, "Pod/forebay-test", "spec/activeDeadlineSeconds")
    yield Case("hooks.nodeSelector", {"pool": "platform"}, "Job/forebay-uninstall", f"{POD}/nodeSelector")
    yield Case("hooks.tolerations", [{"operator": "Exists"}], "Pod/forebay-test", "spec/tolerations")
    yield Case("hooks.priorityClassName", "high", SECRETS_JOB, f"{POD}/priorityClassName")


def _ways_in() -> Iterator[Case]:
    for value, name, port in (("service", "forebay-gateway", 30080), ("functionsService", "forebay-functions", 30081)):
        where = f"Service/{name}"
        balanced = {value: {"type": "LoadBalancer"}}
        yield Case(f"{value}.type", "LoadBalancer", where, "spec/type")
        yield Case(f"{value}.port", 8080, where, "spec/ports/0/port")
        yield Case(f"{value}.nodePort", port, where, "spec/ports/0/nodePort", also={value: {"type": "NodePort"}})
        yield Case(f"{value}.loadBalancerClass", "example.com/lb", where, "spec/loadBalancerClass", also=balanced)
        ranges = f"{value}.loadBalancerSourceRanges"
        yield Case(ranges, ["192.0.2.0/24"], where, "spec/loadBalancerSourceRanges", also=balanced)
        yield Case(f"{value}.externalTrafficPolicy", "Local", where, "spec/externalTrafficPolicy", also=balanced)
        yield Case(f"{value}.annotations", {"team": "shop"}, where, "metadata/annotations/team", "shop")
    for part, name in (("api", "forebay-gateway"), ("functions", "forebay-functions")):
        where, value = f"Ingress/forebay-{part}", f"ingress.{part}"
        hosted = {"ingress": {part: {"enabled": True, "host": f"{part}.example"}}}
        backend = "spec/rules/0/http/paths/0/backend/service/name"
        yield Case(f"{value}.enabled", True, where, backend, name, also=hosted)
        yield Case(f"{value}.host", f"{part}.example.org", where, "spec/rules/0/host", also=hosted)
        yield Case(f"{value}.tlsSecretName", "tls", where, "spec/tls/0/secretName", also=hosted)
        yield Case(f"{value}.annotations", {"team": "shop"}, where, "metadata/annotations/team", "shop", also=hosted)
        yield Case("ingress.className", "nginx", where, "spec/ingressClassName", also=hosted)
        where, value = f"HTTPRoute/forebay-{part}", f"httpRoute.{part}"
        parents = [{"name": "public", "namespace": "gateways"}]
        routed = {"httpRoute": {part: {"enabled": True, "parentRefs": parents, "hostnames": [f"{part}.example"]}}}
        yield Case(f"{value}.enabled", True, where, "spec/rules/0/backendRefs/0/name", name, also=routed)
        yield Case(f"{value}.parentRefs", [{"name": "other"}], where, "spec/parentRefs", also=routed)
        yield Case(f"{value}.hostnames", [f"{part}.example.org"], where, "spec/hostnames", also=routed)
        yield Case(f"{value}.annotations", {"team": "shop"}, where, "metadata/annotations/team", "shop", also=routed)


def _stores() -> Iterator[Case]:
    url = "rediss://redis.example:6380/2"
    external = {"redis": {"external": {"url": url, "secretName": "redis", "caSecretName": "authority"}}}
    for member, expected in (("host", "redis.example"), ("port", 6380), ("tls", True), ("db", 2)):
        yield Case("redis.external.url", url, GATEWAY_CONFIGURATION, f"redis/{member}", expected, group=EXTERNAL)
        to = f"cluster/redis_for_functions/{member}"
        yield Case("redis.external.url", url, CONTROLLER_CONFIGURATION, to, expected, group=EXTERNAL)
    yield Case("redis.external.url", url, VALKEY, "kind", None, group=EXTERNAL)
    yield Case("redis.external.url", "redis://192.0.2.7", GATEWAY_CONFIGURATION, "redis/port", 6379, group=EXTERNAL)
    address = "spec/egress/1/to/0/ipBlock/cidr"
    yield Case(
        "redis.external.url",
        "redis://192.0.2.7",
        "NetworkPolicy/forebay-gateway",
        address,
        "192.0.2.7/32",
        group=EXTERNAL,
    )
    shared = {"redis": {**external["redis"], "acl": "shared"}}
    sources = f"{POD}/volumes/1/projected/sources"
    yield Case("redis.acl", "shared", CONTROLLER_CONFIGURATION, "cluster/redis_acl", also=external, group=EXTERNAL)
    yield Case(
        "redis.external.secretName", "passwords", GATEWAY, f"{sources}/0/secret/name", also=external, group=EXTERNAL
    )
    yield Case(
        "redis.external.caSecretName", "ca", CONTROLLER, f"{sources}/1/secret/name", also=external, group=EXTERNAL
    )
    yield Case(
        "redis.external.caSecretKey",
        "root.crt",
        GATEWAY,
        f"{sources}/1/secret/items/0/key",
        also=external,
        group=EXTERNAL,
    )
    for component, where, at in (("gateway", GATEWAY, 0), ("controller", CONTROLLER, 0), ("functions", CONTROLLER, 1)):
        key = f"{sources}/0/secret/items/{at}/key"
        yield Case(f"redis.external.{component}PasswordKey", "p", where, key, also=shared, group=EXTERNAL)
        configuration = GATEWAY_CONFIGURATION if component == "gateway" else CONTROLLER_CONFIGURATION
        user = "cluster/redis_for_functions/username" if component == "functions" else "redis/username"
        yield Case(f"redis.external.{component}Username", "u", configuration, user, also=shared, group=EXTERNAL)
    yield from _several_servers()
    claim = "spec/volumeClaimTemplates/0"
    yield Case("valkey.persistence.enabled", True, VALKEY, f"{claim}/kind", "PersistentVolumeClaim")
    yield Case("valkey.persistence.enabled", False, VALKEY, f"{POD}/volumes/3/emptyDir", {}, group=ALONE)
    yield Case("valkey.persistence.size", "1Gi", VALKEY, f"{claim}/spec/resources/requests/storage")
    yield Case("valkey.persistence.storageClassName", "fast", VALKEY, f"{claim}/spec/storageClassName")
    yield Case("valkey.persistence.accessModes", ["ReadWriteOncePod"], VALKEY, f"{claim}/spec/accessModes")
    yield Case("valkey.persistence.annotations", {"a": "b"}, VALKEY, f"{claim}/metadata/annotations")
    for value, given, line in (
        ("maxMemory", "5mb", "maxmemory 5mb"),
        ("config", {"hz": "20"}, "hz 20"),
    ):
        where = "lines of ConfigMap/forebay-valkey"
        yield Case(f"valkey.{value}", given, where, "data/valkey.conf", line)
    yield Case("durability", "fsync", GATEWAY_CONFIGURATION, "durability")
    yield Case("durability", "fsync", "lines of ConfigMap/forebay-valkey", "data/valkey.conf", "appendfsync always")
    yield Case("valkey.stopSeconds", 7, VALKEY, f"{POD}/terminationGracePeriodSeconds")
    budget = "PodDisruptionBudget/forebay-valkey"
    yield Case("valkey.podDisruptionBudget.enabled", True, budget, "spec/maxUnavailable", 0)


def _several_servers() -> Iterator[Case]:
    peers = [{"ipBlock": {"cidr": "192.0.2.0/24"}}]
    also = {"redis": {"external": {"secretName": "redis"}}, "networkPolicy": {"externalRedis": peers}}
    for url in ("rediss+cluster://a:1,b:2", "redis+sentinel://a:1,b:2/main/3"):
        for where, to in ((GATEWAY_CONFIGURATION, "redis"), (CONTROLLER_CONFIGURATION, "cluster/redis_for_functions")):
            yield Case("redis.external.url", url, where, f"{to}/url", also=also, group=SEVERAL)
        policy = "NetworkPolicy/forebay-gateway"
        yield Case("redis.external.url", url, policy, "spec/egress/1", {"to": peers}, also=also, group=SEVERAL)
    sentinels = merged(also, nested("redis.external.url", "redis+sentinel://a:1,b:2/main"))
    sources = f"{POD}/volumes/1/projected/sources"
    for where, pod, to in (
        (GATEWAY_CONFIGURATION, GATEWAY, "redis"),
        (CONTROLLER_CONFIGURATION, CONTROLLER, "cluster/redis_for_functions"),
    ):
        user = f"{to}/sentinel_username"
        yield Case("redis.external.sentinelUsername", "watcher", where, user, also=sentinels, group=SEVERAL)
        key = f"{sources}/0/secret/items/1/key"
        yield Case("redis.external.sentinelPasswordKey", "sentinels", pod, key, also=sentinels, group=SEVERAL)
        file = f"{to}/sentinel_password_file"
        path = "/etc/forebay/redis/sentinel-password"
        yield Case("redis.external.sentinelPasswordKey", "sentinels", where, file, path, also=sentinels, group=SEVERAL)


def _watching() -> Iterator[Case]:
    peers = [{"podSelector": {"matchLabels": {"app": "proxy"}}}]
    gateway, controller = "NetworkPolicy/forebay-gateway", "NetworkPolicy/forebay-controller"
    for where in (gateway, controller, "NetworkPolicy/forebay-valkey", "NetworkPolicy/forebay-secrets"):
        yield Case("networkPolicy.enabled", False, where, "kind", None, group=ALONE)
    yield Case("networkPolicy.enabled", False, CONTROLLER_CONFIGURATION, "cluster/network_policy/enabled", group=ALONE)
    yield Case("networkPolicy.callers", peers, gateway, "spec/ingress/0/from")
    yield Case("networkPolicy.scrapers", peers, gateway, "spec/ingress/2/from")
    yield Case("networkPolicy.scrapers", peers, controller, "spec/ingress/1/from")
    to = "cluster/network_policy"
    yield Case("networkPolicy.dns", peers, gateway, "spec/egress/0/to")
    yield Case("networkPolicy.dns", peers, CONTROLLER_CONFIGURATION, f"{to}/dns/0/to")
    yield Case("networkPolicy.dnsPorts", [1053], gateway, "spec/egress/0/ports/0/port", 1053, group=ALONE)
    yield Case("networkPolicy.apiServerPorts", [7443], controller, "spec/egress/2/ports/0/port", 7443)
    external = {"redis": {"external": {"url": "redis://redis.example"}}}
    yield Case("networkPolicy.externalRedis", peers, gateway, "spec/egress/1/to", also=external, group=EXTERNAL)
    yield Case(
        "networkPolicy.externalRedis",
        peers,
        CONTROLLER_CONFIGURATION,
        f"{to}/redis/0/to",
        also=external,
        group=EXTERNAL,
    )
    yield Case("networkPolicy.clusterCidrs", ["192.0.2.0/24"], CONTROLLER_CONFIGURATION, f"{to}/cluster_cidrs")
    yield Case("networkPolicy.blockedCidrs", ["192.0.2.0/24"], CONTROLLER_CONFIGURATION, f"{to}/blocked_cidrs")
    more = [{"ports": [{"port": 8443}]}]
    yield Case("networkPolicy.controllerEgress", more, controller, "spec/egress/4", more[0])
    monitored = {"metrics": {"serviceMonitor": {"enabled": True}, "prometheusRule": {"enabled": True}}}
    monitor, rule = "ServiceMonitor/forebay-gateway", "PrometheusRule/forebay-alerts"
    yield Case(
        "metrics.serviceMonitor.enabled", True, "ServiceMonitor/forebay-controller", "spec/endpoints/0/port", "metrics"
    )
    yield Case("metrics.serviceMonitor.interval", "7s", monitor, "spec/endpoints/0/interval", also=monitored)
    yield Case("metrics.serviceMonitor.scrapeTimeout", "6s", monitor, "spec/endpoints/0/scrapeTimeout", also=monitored)
    yield Case("metrics.serviceMonitor.labels", {"a": "b"}, monitor, "metadata/labels/a", "b", also=monitored)
    first = "spec/groups/0/rules/0"
    yield Case("metrics.prometheusRule.enabled", True, rule, f"{first}/alert", "ForebayGatewayDown", group=ALONE)
    yield Case("metrics.prometheusRule.labels", {"a": "b"}, rule, "metadata/labels/a", "b", also=monitored)
    yield Case("metrics.prometheusRule.alertLabels", {"a": "b"}, rule, f"{first}/labels/a", "b", also=monitored)
    without = ["ForebayGatewayDown"]
    yield Case(
        "metrics.prometheusRule.disabled", without, rule, f"{first}/alert", "ForebayControllerDown", also=monitored
    )
    dashboard = "ConfigMap/forebay-dashboard"
    shown = {"metrics": {"grafanaDashboard": {"enabled": True}}}
    yield Case("metrics.grafanaDashboard.enabled", True, dashboard, "metadata/labels/grafana_dashboard", "1")
    yield Case("metrics.grafanaDashboard.labels", {"a": "b"}, dashboard, "metadata/labels/a", "b", also=shown)
    yield Case("metrics.grafanaDashboard.annotations", {"a": "b"}, dashboard, "metadata/annotations/a", "b", also=shown)
