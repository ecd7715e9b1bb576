"""A function that is taken for hostile: what it tries, and that nothing of it gets in. The list is printed."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from redis import ResponseError

from cluster import policies
from cluster.access import Cluster
from cluster.functions import ECHO, apply, condition, deploy, function, get
from cluster.node.report import Progress
from cluster.release import API, CONTROLLER, INVOKE, METRICS_PORT, NAMESPACE, VALKEY, Credentials, Release, decoded
from cluster.watching import Object, functions_in, pods_of

SOURCE = (Path(__file__).parent / "hostile" / "app.py").read_text()
INSIDE = f"{NAMESPACE}.svc.cluster.local"
REFUSED, NOT_ENFORCED = "refused", "not enforced here"
LINK_LOCAL = ("169.254.169.254", "169.254.170.2")
KUBELET_PORT, API_SERVER_PORT = 10250, 6443


@dataclass
class Victim:
    """A function in another namespace: what the hostile one is after."""

    namespace: str
    pod: Object
    base: str
    """What all of its Redis keys begin with."""

    @property
    def address(self) -> str:
        """Its pod's address."""
        found: str = self.pod["status"]["podIP"]
        return found


@pytest.fixture
def show(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Prints past pytest's capturing: what was tried belongs to the tests' output."""
    capture = request.config.pluginmanager.getplugin("capturemanager")

    def write(line: str) -> None:
        with capture.global_and_fixture_disabled():
            print(line)  # noqa: T201

    return write


@pytest.fixture
def victim(cluster: Cluster, release: Release, tenant: str) -> Any:
    """A running function in a namespace beside the hostile one's."""
    namespace = f"{tenant}-victim"
    cluster.kubectl("create", "namespace", namespace)
    deploy(cluster, namespace, function("victim", ECHO, scale={"minInstances": 1}))
    with pods_of(cluster, namespace, "victim") as pods:
        pods.until(lambda: any("podIP" in pod.get("status", {}) for pod in pods.objects.values()), "its pod runs")
        pod = next(iter(pods.objects.values()))
    uid = get(cluster, namespace, "victim")["metadata"]["uid"].replace("-", "")
    yield Victim(namespace, pod, f"forebay:{{{namespace}/victim/{uid}}}")
    cluster.kubectl("delete", "namespace", namespace, "--wait=false")


def secret_of(cluster: Cluster, namespace: str, name: str) -> dict[str, str]:
    """The Secret of a function, decoded."""
    uid = get(cluster, namespace, name)["metadata"]["uid"].replace("-", "")
    return decoded(cluster.json("secret", f"forebay-{name}-{uid[:8]}", f"--namespace={namespace}"))


def node_addresses(cluster: Cluster) -> list[str]:
    """Addresses of the cluster's nodes."""
    nodes = cluster.json("nodes")["items"]
    return [a["address"] for node in nodes for a in node["status"]["addresses"] if a["type"] == "InternalIP"]


def platform_address(cluster: Cluster, release: Release, component: str) -> str:
    """A pod's address of a component."""
    pod = cluster.json("pod", release.pod_names(component)[0], f"--namespace={NAMESPACE}")
    found: str = pod["status"]["podIP"]
    return found


def connections(cluster: Cluster, release: Release, victim: Victim) -> list[tuple[str, str, int]]:
    """What no function may connect to, whatever its `egress`: name, address, port."""
    node = node_addresses(cluster)[0]
    controller, gateway = (platform_address(cluster, release, name) for name in ("controller", "gateway"))
    return [
        *((f"cloud metadata at {address}", address, 80) for address in LINK_LOCAL),
        ("the kubelet", node, KUBELET_PORT),
        ("the API server's own address", node, API_SERVER_PORT),
        ("the controller's management", controller, CONTROLLER[1]),
        ("the controller's metrics", controller, METRICS_PORT),
        ("the gateway's API port", gateway, API[1]),
        ("the gateway's metrics", gateway, METRICS_PORT),
        ("another function's pod", victim.address, 9001),
    ]


def requests_to(cluster: Cluster, victim: Victim) -> list[tuple[str, str, str, dict[str, str]]]:
    """Requests that must give nothing even to one whom the network lets through: name, method, URL, headers."""
    node = node_addresses(cluster)[0]
    own = {"Authorization": "Bearer OWN_KEY"}
    api, invoke, controller = (f"http://{name}.{INSIDE}:{port}" for name, port in (API, INVOKE, CONTROLLER))
    other = f"/ns/{victim.namespace}"
    secrets = f"/api/v1/namespaces/{NAMESPACE}/secrets"
    return [
        ("the Kubernetes API: secrets", "GET", f"https://kubernetes.default.svc{secrets}", {}),
        ("the Kubernetes API at its node: pods", "GET", f"https://{node}:{API_SERVER_PORT}/api/v1/pods", {}),
        ("the kubelet: pods", "GET", f"https://{node}:{KUBELET_PORT}/pods", {}),
        ("cloud metadata", "GET", f"http://{LINK_LOCAL[0]}/latest/meta-data/", {}),
        ("management without a key", "GET", f"{api}/2015-03-31/functions/", {}),
        ("management with its invoke key", "GET", f"{api}/2015-03-31/functions/", own),
        ("/v1 with its invoke key", "GET", f"{api}/v1/functions", own),
        ("deleting another function", "DELETE", f"{api}{other}/2015-03-31/functions/victim", own),
        ("another function's code", "GET", f"{api}{other}/2015-03-31/functions/victim", own),
        ("another function's logs", "GET", f"{api}{other}/v1/functions/victim/logs", own),
        ("management on the invoke port", "GET", f"{invoke}/2015-03-31/functions/", own),
        ("/v1 on the invoke port", "GET", f"{invoke}/v1/functions", own),
        ("metrics on the invoke port", "GET", f"{invoke}/metrics", own),
        ("management past the gateway", "GET", f"{controller}/2015-03-31/functions/", own),
        ("management past the gateway, no key", "GET", f"{controller}/v1/functions", {}),
        ("another namespace's function", "POST", f"{invoke}{other}/2015-03-31/functions/victim/invocations", own),
        ("one without a key", "POST", f"{invoke}{other}/2015-03-31/functions/victim/invocations", {}),
    ]


def operations(victim: Victim) -> list[tuple[str, str, str, dict[str, Any]]]:
    """The same by boto3 with the key pair in the function's environment: name, endpoint, operation, parameters."""
    api = f"http://{API[0]}.{INSIDE}:{API[1]}"
    other = f"http://{INVOKE[0]}.{INSIDE}:{INVOKE[1]}/ns/{victim.namespace}"
    change = {"FunctionName": "hostile", "Timeout": 900}
    return [
        ("boto3: list_functions where invoke is served", "", "list_functions", {}),
        ("boto3: list_functions", api, "list_functions", {}),
        ("boto3: its own code", api, "get_function", {"FunctionName": "hostile"}),
        ("boto3: its own settings", api, "update_function_configuration", change),
        ("boto3: another namespace's function", other, "invoke", {"FunctionName": "victim"}),
    ]


def test_hostile_code_gets_at_nothing_that_is_not_its_own(
    cluster: Cluster, release: Release, tenant: str, victim: Victim, show: Callable[[str], None]
) -> None:
    """From within the function. What only the network could refuse counts as refused where policies are enforced."""
    deploy(cluster, tenant, function("hostile", SOURCE, timeoutSeconds=60, memory="512Mi", egress="cluster"))
    own, platform = secret_of(cluster, tenant, "hostile"), release.secret("forebay-redis")
    secrets = (json.loads(own["redis.json"])["password"], *platform.values(), release.admin().secret_access_key)
    event = {
        "secrets": [text[::-1] for text in secrets],
        "redis": [f"{VALKEY[0]}.{INSIDE}", VALKEY[1]],
        "connect": connections(cluster, release, victim),
        "http": requests_to(cluster, victim),
        "lambda": operations(victim),
    }
    with release.http(namespace=tenant) as http:
        answer = http.post("/2015-03-31/functions/hostile/invocations", json=event)
    assert answer.status_code == 200, answer.text
    assert "x-amz-function-error" not in answer.headers, answer.text
    findings = answer.json()
    by_network = {name for name, _, _ in event["connect"]}
    enforced = policies.enforced(cluster, tenant)
    got_in = []
    show(f"\nwhat a hostile function tried ({len(findings)} attempts):")
    for name, succeeded, seen in findings:
        outcome = REFUSED
        if name in by_network and not enforced:
            outcome = NOT_ENFORCED
        elif succeeded:
            outcome = "GOT IN"
            got_in.append((name, seen))
        show(f"  {outcome:18} {name:48} {seen[:90]}")
    assert not got_in


def forbidden(victim: Victim, own: str) -> list[list[str]]:
    """Commands that a function's own Redis user may not run; `own` is what its keys begin with."""
    other, stream = victim.base, f"{victim.base}:q:$LATEST:sync"
    return [
        ["KEYS", "*"], ["SCAN", "0"], ["DBSIZE"], ["RANDOMKEY"],
        ["CONFIG", "GET", "*"], ["CONFIG", "SET", "maxmemory", "1"], ["INFO"], ["DEBUG", "SLEEP", "0"], ["SHUTDOWN"],
        ["FLUSHALL"], ["FLUSHDB"], ["SWAPDB", "0", "1"], ["SAVE"], ["BGREWRITEAOF"],
        ["SUBSCRIBE", "forebay:wake"], ["PSUBSCRIBE", "*"], ["PUBLISH", "forebay:{functions}", "1 x"], ["MONITOR"],
        ["EVAL", "return 1", "0"], ["SCRIPT", "LOAD", "return 1"], ["SCRIPT", "FLUSH"], ["FUNCTION", "LIST"],
        ["ACL", "LIST"], ["ACL", "SETUSER", "mine", "on", "nopass", "+@all", "~*"],
        ["CLIENT", "LIST"], ["CLIENT", "KILL", "TYPE", "normal"], ["REPLICAOF", "127.0.0.1", "1"],
        ["MODULE", "LIST"], ["MIGRATE", "127.0.0.1", "1", f"{own}:code", "0", "1"], ["DUMP", f"{own}:code"],
        ["XREADGROUP", "GROUP", "g", "me", "STREAMS", stream, ">"], ["XRANGE", stream, "-", "+"], ["XLEN", stream],
        ["XADD", stream, "*", "r", "x"], ["XDEL", stream, "1-1"], ["DEL", stream], ["TYPE", stream],
        ["COPY", stream, own],
        ["HGETALL", f"{other}:code"], ["GET", f"{other}:code:{'0' * 64}:0"], ["GET", f"{other}:spec"],
        ["HGETALL", "forebay:{functions}"], ["HGETALL", "forebay:{functions}:credentials"],
        ["HSET", "forebay:{functions}", "x", "{}"], ["INCR", "forebay:{functions}:generation"],
        ["LRANGE", "forebay:reply:any", "0", "-1"], ["DEL", "forebay:reply:any"], ["EXPIRE", "forebay:reply:any", "1"],
        ["LPOP", "forebay:reply:any"], ["BLPOP", "forebay:reply:any", "0.1"], ["GET", "forebay:process:any"],
        ["SMEMBERS", "forebay:processes"], ["SET", f"{own}:code:{'0' * 64}:0", "mine"], ["UNLINK", f"{own}:code:x:0"],
        ["SET", "planted", "1"], ["SELECT", "1"],
    ]  # fmt: skip


def test_a_functions_own_redis_user_reaches_its_own_keys_and_nothing_else(
    cluster: Cluster, release: Release, tenant: str, victim: Victim, show: Callable[[str], None]
) -> None:
    """With the password from its Secret, which its code cannot get at: what if it could."""
    deploy(cluster, tenant, function("own", ECHO, scale={"minInstances": 1}))
    access = json.loads(secret_of(cluster, tenant, "own")["redis.json"])
    uid = get(cluster, tenant, "own")["metadata"]["uid"].replace("-", "")
    own = f"forebay:{{{tenant}/own/{uid}}}"
    got_in = []
    with release.redis(access["username"], access["password"]) as redis:
        # The password is right and its own queue is open to it: the refusals below are not for want of a login.
        assert isinstance(redis.execute_command("XRANGE", f"{own}:q:$LATEST:sync", "-", "+"), list)
        commands = forbidden(victim, own)
        show(f"\nwhat a function's Redis user tried ({len(commands)} commands):")
        for words in commands:
            try:
                seen = str(redis.execute_command(*words))
                outcome = "GOT IN"
                got_in.append((words, seen))
            except ResponseError as error:
                seen, outcome = str(error), REFUSED
                if "permission" not in seen and "not allowed" not in seen:
                    got_in.append((words, seen))
            show(f"  {outcome:18} {' '.join(words)[:70]:70} {seen[:60]}")
    assert not got_in


URLS = [
    "https://169.254.169.254/latest/meta-data/",
    "https://127.0.0.1/code.zip",
    "https://localhost:8490/v1/functions",
    "https://[::1]/code.zip",
    "https://[::ffff:127.0.0.1]/code.zip",
    "https://2130706433/code.zip",
    "https://0x7f.1/code.zip",
    "https://0.0.0.0/code.zip",
    "https://[fe80::1]/code.zip",
    "https://10.0.0.1/code.zip",
    "https://192.168.1.1/code.zip",
    "https://kubernetes.default.svc.cluster.local/api/v1/secrets",
    f"https://{VALKEY[0]}.{INSIDE}:{VALKEY[1]}/",
    f"http://{CONTROLLER[0]}.{INSIDE}:{CONTROLLER[1]}/v1/functions",
    "https://NODE:10250/pods",
    "https://user:password@127.0.0.1/code.zip",
]


def test_code_urls_lead_to_no_address_inside(
    cluster: Cluster, release: Release, tenant: str, show: Callable[[str], None]
) -> None:
    """Who may create Functions makes the controller fetch: from nowhere inside, and with no byte of it in an error."""
    urls = [url.replace("NODE", node_addresses(cluster)[0]) for url in URLS]
    zips = {
        f"url-{number}": function(f"url-{number}", {"zip": {"url": url, "sha256": "0" * 64}})
        for number, url in enumerate(urls)
    }
    apply(cluster, tenant, *zips.values())
    with functions_in(cluster, tenant) as functions:

        def judged(name: str) -> bool:
            found = condition(functions.objects.get(name, {}), "CodeReady") or {}
            return found.get("status") == "False"

        functions.until(lambda: all(judged(name) for name in zips), "all are refused", timeout_s=60)
        show("\nwhere code was to be fetched from:")
        for url, name in zip(urls, zips, strict=True):
            found = condition(functions.objects[name], "CodeReady") or {}
            show(f"  {REFUSED:18} {url:64} {found['message'][:90]}")
            assert found["reason"] == "UrlRefused", (url, found)
            assert "metadata" not in found["message"].replace(url, "")


def test_the_policies_mean_what_the_documentation_says(
    cluster: Cluster,
    release: Release,
    tenant: str,
    victim: Victim,
    progress: Progress,
    tmp_path: Path,
    show: Callable[[str], None],
) -> None:
    """Judged by an evaluator that is not ours, on the policies that are in the cluster."""
    classes = {"internet": True, "none": False, "cluster": False}
    for egress in classes:
        deploy(cluster, tenant, function(f"to-{egress}", egress=egress, scale={"minInstances": 1}))
    peers = {egress: _running_peer(cluster, tenant, f"to-{egress}") for egress in classes}
    dns = policies.peer(cluster, "kube-system", {"k8s-app": "kube-dns"}, "10.204.255.1")
    ordinary = policies.peer(cluster, tenant, {"app": "ordinary"}, "10.204.255.2")
    away = policies.outside("93.184.215.14")
    platform = {
        name: policies.pod_peer(cluster, cluster.json("pod", release.pod_names(name)[0], f"--namespace={NAMESPACE}"))
        for name in ("gateway", "controller", "valkey")
    }
    questions: list[tuple[str, policies.Peer, policies.Peer, int, str, bool]] = []
    for egress, internet in classes.items():
        me = f"a function with egress {egress}"
        source = peers[egress]
        questions += [
            (f"{me} to Redis", source, platform["valkey"], VALKEY[1], "TCP", True),
            (f"{me} to DNS", source, dns, 53, "UDP", True),
            (f"{me} to Invoke", source, platform["gateway"], INVOKE[1], "TCP", True),
            (f"{me} to the internet", source, away, 443, "TCP", internet),
            (f"{me} to an ordinary pod", source, ordinary, 80, "TCP", egress == "cluster"),
            (f"{me} to another function", source, policies.pod_peer(cluster, victim.pod), 9001, "TCP", False),
            *(
                (f"{me} to {name}", source, _peer_at(platform, address), port, "TCP", False)
                for name, address, port in connections(cluster, release, victim)
            ),
        ]
    questions += [
        ("an ordinary pod to Redis", ordinary, platform["valkey"], VALKEY[1], "TCP", False),
        ("an ordinary pod to a function", ordinary, peers["internet"], 9001, "TCP", False),
        ("the gateway to Redis", platform["gateway"], platform["valkey"], VALKEY[1], "TCP", True),
        ("the gateway to the controller", platform["gateway"], platform["controller"], CONTROLLER[1], "TCP", True),
        ("the gateway to the internet", platform["gateway"], away, 443, "TCP", False),
        ("the controller to Redis", platform["controller"], platform["valkey"], VALKEY[1], "TCP", True),
        ("Redis to the internet", platform["valkey"], away, 443, "TCP", False),
        ("Redis to the gateway", platform["valkey"], platform["gateway"], API[1], "TCP", False),
    ]
    verdicts = policies.judge(cluster, progress, tmp_path, [question[1:5] for question in questions])
    wrong = []
    show(f"\nwhat the network policies allow, by cyclonus {policies.CYCLONUS}:")
    for (name, _, _, port, protocol, expected), verdict in zip(questions, verdicts, strict=True):
        show(f"  {'allowed' if verdict else 'refused':18} {name}, port {port}/{protocol}")
        if verdict != expected:
            wrong.append(name)
    assert not wrong


def _running_peer(cluster: Cluster, namespace: str, name: str) -> policies.Peer:
    """A function's pod, once it has an address."""
    with pods_of(cluster, namespace, name) as pods:
        pods.until(lambda: _with_address(pods.objects), "its pod has an address")
        return policies.pod_peer(cluster, _with_address(pods.objects)[0])


def _with_address(pods: dict[str, Object]) -> list[Object]:
    return [pod for pod in pods.values() if pod.get("status", {}).get("podIP")]


def _peer_at(platform: dict[str, policies.Peer], address: str) -> policies.Peer:
    """The platform's pod at an address, or an address outside."""
    return next((peer for peer in platform.values() if peer["IP"] == address), policies.outside(address))


def test_an_invoke_key_is_worth_nothing_from_outside_either(
    cluster: Cluster, release: Release, tenant: str, victim: Victim
) -> None:
    deploy(cluster, tenant, function("own", ECHO))
    data = secret_of(cluster, tenant, "own")
    pair = (data["AWS_ACCESS_KEY_ID"], data["AWS_SECRET_ACCESS_KEY"])
    key = Credentials(*pair, ".".join(pair))
    with release.http(API, tenant, key.bearer) as http:
        assert http.post("/2015-03-31/functions/own/invocations", json=1).json() == 1
        assert http.get("/2015-03-31/functions/own").status_code == 403
    with release.http(API, victim.namespace, key.bearer) as http:
        assert http.post("/2015-03-31/functions/victim/invocations", json=1).status_code == 403
