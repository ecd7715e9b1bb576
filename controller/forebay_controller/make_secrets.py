"""`python -m forebay_controller.make_secrets --config FILE`: what the chart runs before a release's first pods.

Makes the first key pair, the passwords of the platform's Redis users and the key that functions' secrets are derived
from, each only where it is not there. Nothing here is read or overwritten: the account that this runs as may only
create Secrets.
"""

import argparse
import asyncio
import base64
import secrets
import sys
from pathlib import Path

from kubernetes.aio.config import ConfigException

from forebay_common import logs
from forebay_controller.cluster.api import SECRETS, Api, ApiError, Object, connect_api
from forebay_controller.cluster.credential_secrets import LABEL
from forebay_controller.cluster.uninstall import Installation, read_installation
from forebay_controller.key_pairs import KeyPair

_PASSWORD_BYTES = 30
_log = logs.get(__name__)


def admin_secret(installation: Installation, pair: KeyPair) -> Object:
    """The Secret of the first key pair, which may do everything (pure)."""
    data = {
        "accessKeyId": pair.access_key_id,
        "secretAccessKey": pair.secret_access_key,
        "apiKey": pair.api_key,
    }
    return _secret(installation, "admin", {LABEL: "true"}, data)


def redis_secret(installation: Installation) -> Object:
    """The Secret of the platform's own Redis users, with new passwords."""
    names = ("controller-password", "gateway-password", "function-key")
    return _secret(installation, "redis", {}, {name: secrets.token_urlsafe(_PASSWORD_BYTES) for name in names})


def _secret(installation: Installation, suffix: str, labels: dict[str, str], data: dict[str, str]) -> Object:
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {
            "name": f"{installation.full_name}-{suffix}",
            "namespace": installation.release_namespace,
            "labels": {
                "app.kubernetes.io/name": "forebay",
                "app.kubernetes.io/instance": installation.release,
                "app.kubernetes.io/managed-by": "forebay",
                **labels,
            },
        },
        "type": "Opaque",
        "data": {name: base64.b64encode(value.encode()).decode() for name, value in data.items()},
    }


async def make_secrets(api: Api, installation: Installation) -> None:
    """Create what is not there. Raises ApiError."""
    for secret in (admin_secret(installation, KeyPair.new()), redis_secret(installation)):
        name = secret["metadata"]["name"]
        try:
            await api.create(SECRETS, installation.release_namespace, secret)
        except ApiError as error:
            if error.reason != "AlreadyExists":
                raise
            _log.info("the Secret %s is there already, and stays as it is", name)
        else:
            _log.info("made the Secret %s", name)


def main() -> int:
    """Make them. Returns the exit status: 1 when it failed, 2 for a wrong configuration."""
    parser = argparse.ArgumentParser(
        prog="forebay_controller.make_secrets", description="Makes a Forebay installation's first Secrets."
    )
    parser.add_argument("--config", type=Path, required=True, help="the controller's configuration, a JSON file")
    arguments = parser.parse_args()
    logs.configure("make-secrets")
    try:
        installation = read_installation(arguments.config)
    except (OSError, ValueError) as error:
        _log.error("no Secret was made: %s", error)
        return 2
    try:
        asyncio.run(_run(installation))
    except (ApiError, ConfigException) as error:
        _log.error("not all Secrets were made: %s", error)
        return 1
    return 0


async def _run(installation: Installation) -> None:
    api = await connect_api()
    try:
        await make_secrets(api, installation)
    finally:
        await api.close()


if __name__ == "__main__":
    sys.exit(main())
