"""Keys, certificates and kubeconfigs: one authority for the node's life, one identity for each component."""

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from .layout import (
    ADMIN_KUBECONFIG,
    API_PORT,
    API_SERVICE_ADDRESS,
    CERTIFICATES,
    CLUSTER_DOMAIN,
    CONFIG,
    NODE_ADDRESS,
    NODE_NAME,
)
from .processes import run

VALID_DAYS = 30
AUTHORITY = CERTIFICATES / "authority.crt"
AUTHORITY_KEY = CERTIFICATES / "authority.key"
SERVICE_ACCOUNT_KEY = CERTIFICATES / "service-accounts.key"
_NEW_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", str(VALID_DAYS))


@dataclass(frozen=True)
class Identity:
    """Who a component is: user `name`, in `group` where RBAC goes by it; `hosts` make it a server's certificate."""

    file: str
    name: str
    group: str = ""
    hosts: tuple[str, ...] = ()

    @property
    def certificate(self) -> Path:
        """The certificate's file."""
        return CERTIFICATES / f"{self.file}.crt"

    @property
    def key(self) -> Path:
        """The private key's file."""
        return CERTIFICATES / f"{self.file}.key"

    @property
    def kubeconfig(self) -> Path:
        """Where `write_kubeconfig` puts the access file of a client."""
        return ADMIN_KUBECONFIG if self is ADMIN else CONFIG / f"{self.file}.kubeconfig"


ADMIN = Identity("admin", "forebay-node-admin", "system:masters")
API_SERVER = Identity(
    "kube-apiserver",
    "kube-apiserver",
    hosts=(
        "DNS:kubernetes",
        "DNS:kubernetes.default",
        "DNS:kubernetes.default.svc",
        f"DNS:kubernetes.default.svc.{CLUSTER_DOMAIN}",
        "DNS:localhost",
        "IP:127.0.0.1",
        f"IP:{NODE_ADDRESS}",
        f"IP:{API_SERVICE_ADDRESS}",
    ),
)
API_SERVER_TO_KUBELET = Identity("kubelet-client", "kube-apiserver-kubelet-client", "system:masters")
CONTROLLERS = Identity("kube-controller-manager", "system:kube-controller-manager")
SCHEDULER = Identity("kube-scheduler", "system:kube-scheduler")
KUBELET = Identity("kubelet", f"system:node:{NODE_NAME}", "system:nodes")
KUBELET_SERVER = Identity("kubelet-server", NODE_NAME, hosts=(f"DNS:{NODE_NAME}", f"IP:{NODE_ADDRESS}"))
PROXY = Identity("kube-proxy", "system:kube-proxy")
DNS = Identity("coredns", "system:coredns")
PROVISIONER = Identity("host-path-provisioner", "system:host-path-provisioner")

SERVERS = (API_SERVER, KUBELET_SERVER)
CLIENTS = (ADMIN, CONTROLLERS, SCHEDULER, KUBELET, PROXY, DNS, PROVISIONER)


def make_all() -> None:
    """Make every key, certificate and kubeconfig."""
    config = _openssl_config("authority", ["basicConstraints=critical,CA:TRUE", "keyUsage=critical,keyCertSign"])
    run(
        [*_request(config, "/CN=forebay-node-authority"), "-keyout", str(AUTHORITY_KEY), "-out", str(AUTHORITY)],
        what="the authority's certificate",
    )
    run(
        ["openssl", "ecparam", "-genkey", "-noout", "-name", "prime256v1", "-out", SERVICE_ACCOUNT_KEY],
        what="the key that signs service-account tokens",
    )
    with ThreadPoolExecutor() as pool:
        for made in [pool.submit(_make, identity) for identity in (*SERVERS, *CLIENTS, API_SERVER_TO_KUBELET)]:
            made.result()
    for identity in CLIENTS:
        write_kubeconfig(identity)


def _make(identity: Identity) -> None:
    extensions = [
        "basicConstraints=critical,CA:FALSE",
        "keyUsage=critical,digitalSignature",
        f"extendedKeyUsage={'serverAuth' if identity.hosts else 'clientAuth'}",
        "authorityKeyIdentifier=keyid",
    ]
    if identity.hosts:
        extensions.append(f"subjectAltName={','.join(identity.hosts)}")
    subject = (f"/O={identity.group}" if identity.group else "") + f"/CN={identity.name}"
    signed = ["-CA", str(AUTHORITY), "-CAkey", str(AUTHORITY_KEY)]
    files = ["-keyout", str(identity.key), "-out", str(identity.certificate)]
    run(
        [*_request(_openssl_config(identity.file, extensions), subject), *signed, *files],
        what=f"certificate of {identity.name}",
    )


def _request(config: Path, subject: str) -> list[str]:
    return ["openssl", "req", "-config", str(config), "-x509", *_NEW_KEY, "-subj", subject]


def _openssl_config(name: str, extensions: list[str]) -> Path:
    """A configuration of our own: the system's adds extensions that then stand in the certificate twice."""
    path = CERTIFICATES / f"{name}.cnf"
    lines = ["[req]", "distinguished_name=name", "x509_extensions=extensions", "[name]", "[extensions]"]
    path.write_text("\n".join([*lines, "subjectKeyIdentifier=hash", *extensions]) + "\n")
    return path


def write_kubeconfig(identity: Identity) -> None:
    """Write a client's access file (JSON is YAML); it reaches the API server over loopback."""
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [
            {
                "name": NODE_NAME,
                "cluster": {
                    "server": f"https://127.0.0.1:{API_PORT}",
                    "certificate-authority": str(AUTHORITY),
                },
            }
        ],
        "users": [
            {
                "name": identity.name,
                "user": {"client-certificate": str(identity.certificate), "client-key": str(identity.key)},
            }
        ],
        "contexts": [{"name": NODE_NAME, "context": {"cluster": NODE_NAME, "user": identity.name}}],
        "current-context": NODE_NAME,
    }
    identity.kubeconfig.touch(mode=0o600)
    identity.kubeconfig.write_text(json.dumps(document, indent=1))
