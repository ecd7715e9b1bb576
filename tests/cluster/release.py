"""The chart as a user installs it, and the clients that talk to what it makes."""

import base64
import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import boto3
import httpx
from botocore.config import Config
from redis import Redis

from support.waiting import wait_until

from .access import Cluster
from .node.runtime import kill_container
from .platform_images import REPOSITORY
from .reach import Reach, ServiceAddresses

NAME = "forebay"
NAMESPACE = "forebay"
DEFAULT_NAMESPACE = "default"
REGION = "us-east-1"
CHART = REPOSITORY / "charts" / "forebay"
AWS = REPOSITORY / ".venv-aws" / "bin" / "aws"
INSTALL_TIMEOUT_S = 60.0

API = ("forebay-gateway", 8480)
FUNCTIONS = ("forebay-functions", 80)
INVOKE = ("forebay-invoke", 8482)
CONTROLLER = ("forebay-controller", 8490)
VALKEY = ("forebay-valkey", 6379)
METRICS_PORT = 8483
FUNCTION_USER = "forebay-fn-"


@dataclass(frozen=True)
class Credentials:
    """A key pair, and the key for Bearer and X-Api-Key."""

    access_key_id: str
    secret_access_key: str
    api_key: str

    @property
    def bearer(self) -> dict[str, str]:
        """The header that a plain HTTP client sends."""
        return {"Authorization": f"Bearer {self.api_key}"}


@dataclass
class Release:
    """An installation. `ready_s` is how long `helm install --wait` took, `notes` what it told the user."""

    cluster: Cluster
    reach: Reach
    settings: tuple[str, ...] = ()
    ready_s: float = field(default=0.0, init=False)
    notes: str = field(default="", init=False)

    def install(self) -> None:
        """`helm install` as the README has it; fails with the state of the pods when it does not become ready."""
        began = time.monotonic()
        done = self.cluster.run(
            "helm",
            *("install", NAME, str(CHART), "-n", NAMESPACE, "--create-namespace", "--wait", "--timeout=100s"),
            *self.settings,
        )
        self.ready_s = time.monotonic() - began
        assert done.returncode == 0, f"helm install: {done.stderr}\n{self.pods()}"
        self.notes = done.stdout
        # Pods are Ready a moment before kube-proxy has told the kernel of them.
        wait_until(self._answers, "the Service leads to a gateway")

    def _answers(self) -> bool:
        try:
            return httpx.get(f"{self.url()}/healthz", timeout=5).is_success
        except httpx.TransportError:
            return False

    def uninstall(self) -> None:
        """Remove it if it is there, with its namespace."""
        self.cluster.helm("uninstall", NAME, "-n", NAMESPACE, "--wait", "--ignore-not-found", "--timeout=100s")
        self.cluster.kubectl("delete", "namespace", NAMESPACE, "--ignore-not-found")

    def pods(self) -> str:
        """The platform's pods as a person would look at them, with the events and the ends of the logs."""
        views = (
            ("get", "pods", "--output=wide"),
            ("get", "events", "--sort-by=.lastTimestamp"),
            ("logs", "--selector=app.kubernetes.io/name=forebay", "--all-containers", "--prefix", "--tail=15"),
        )
        return "\n".join(self.cluster.run("kubectl", *view, f"--namespace={NAMESPACE}").stdout for view in views)

    def secret(self, name: str) -> dict[str, str]:
        """A Secret of the release's namespace, decoded."""
        return decoded(self.cluster.json("secret", name, f"--namespace={NAMESPACE}"))

    def admin(self) -> Credentials:
        """The key pair that was made at the installation."""
        data = self.secret("forebay-admin")
        return Credentials(data["accessKeyId"], data["secretAccessKey"], data["apiKey"])

    def url(self, service: tuple[str, int] = API, namespace: str = "") -> str:
        """Where one of its Services answers here, for the functions of a namespace."""
        base = self.reach.url(NAMESPACE, *service)
        return f"{base}/ns/{namespace}" if namespace else base

    def http(
        self, service: tuple[str, int] = API, namespace: str = "", headers: dict[str, str] | None = None
    ) -> httpx.Client:
        """A plain HTTP client with the admin's key, or with other headers."""
        shown = self.admin().bearer if headers is None else headers
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
        return httpx.Client(base_url=self.url(service, namespace), headers=shown, timeout=60, limits=limits)

    def boto(self, namespace: str = "", credentials: Credentials | None = None, service: tuple[str, int] = API) -> Any:
        """A boto3 Lambda client that tries once."""
        used = credentials or self.admin()
        return boto3.client(
            "lambda",
            endpoint_url=self.url(service, namespace),
            region_name=REGION,
            aws_access_key_id=used.access_key_id,
            aws_secret_access_key=used.secret_access_key,
            config=Config(retries={"total_max_attempts": 1}, read_timeout=60),
        )

    def aws(self, namespace: str, *arguments: str) -> Any:
        """`aws lambda …`, its JSON answer; fails with what it said."""
        admin = self.admin()
        credentials = {"AWS_ACCESS_KEY_ID": admin.access_key_id, "AWS_SECRET_ACCESS_KEY": admin.secret_access_key}
        endpoint = f"--endpoint-url={self.url(API, namespace)}"
        text = run([AWS, "lambda", endpoint, f"--region={REGION}", "--output=json", *arguments], credentials)
        return json.loads(text) if text else None

    def cli(self, namespace: str, *arguments: str) -> str:
        """The `forebay` command against this release."""
        settings = {"FOREBAY_ENDPOINT": self.url(API, namespace), "FOREBAY_API_KEY": self.admin().api_key}
        return run([Path(sys.executable).with_name("forebay"), *arguments], settings)

    def redis(self, username: str = "forebay-controller", password: str = "") -> Redis:
        """A client of its Redis, as the controller or as another user."""
        address = urlsplit(self.url(VALKEY))
        assert address.hostname is not None
        assert address.port is not None
        return Redis(
            host=address.hostname,
            port=address.port,
            username=username,
            password=password or self.secret("forebay-redis")["controller-password"],
            decode_responses=True,
        )

    def redis_users(self) -> set[str]:
        """The uids of functions that have a Redis user."""
        with self.redis() as redis:
            users: list[str] = redis.execute_command("ACL", "USERS")
        return {user.removeprefix(FUNCTION_USER) for user in users if user.startswith(FUNCTION_USER)}

    def kill(self, pod: str, namespace: str = NAMESPACE, container: str = "") -> None:
        """kill -9 a container of a pod, the only one unless it is named; elsewhere delete the pod by force."""
        if isinstance(self.reach, ServiceAddresses):
            statuses = self.cluster.json("pod", pod, f"--namespace={namespace}")["status"]["containerStatuses"]
            (ident,) = (each["containerID"] for each in statuses if container in ("", each["name"]))
            kill_container(ident.removeprefix("containerd://"))
        else:
            self.cluster.kubectl("delete", "pod", pod, f"--namespace={namespace}", "--force", "--grace-period=0")

    def leader(self) -> str:
        """The pod of the controller that leads; "" when none does. A holder's name is its pod's, and a suffix."""
        (lease,) = self.cluster.json("leases", f"--namespace={NAMESPACE}")["items"]
        holder: str = lease["spec"].get("holderIdentity") or ""
        return holder.rpartition("_")[0]

    def pod_names(self, component: str) -> list[str]:
        """Names of the living pods of one component."""
        selector = f"--selector=app.kubernetes.io/component={component}"
        items = self.cluster.json("pods", f"--namespace={NAMESPACE}", selector)["items"]
        return [item["metadata"]["name"] for item in items if "deletionTimestamp" not in item["metadata"]]


def run(command: list[str | Path], settings: dict[str, str]) -> str:
    """A client program's output; fails with what it said."""
    done = subprocess.run(
        command, env={**os.environ, **settings}, capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout


def decoded(secret: dict[str, Any]) -> dict[str, str]:
    """A Secret's data as text."""
    return {name: base64.b64decode(value).decode() for name, value in secret["data"].items()}
