"""What a function's pods need before the first of them, and what goes with the function: the two ends of its access."""

import asyncio
from pathlib import Path

from redis.exceptions import NoPermissionError, ResponseError

from forebay_common.keys import PlatformKeys
from forebay_common.spec import FunctionSpec
from forebay_controller.cluster.acceptance import PrepareError
from forebay_controller.cluster.access import acl_rules, function_secret, redis_password
from forebay_controller.cluster.api import SECRETS, Api
from forebay_controller.cluster.config import ClusterConfig
from forebay_controller.cluster.credentials_source import CredentialsSource
from forebay_controller.cluster.policy_keeper import PolicyKeeper
from forebay_controller.cluster.redis_users import RedisUsers


class FunctionAccess:
    """Both steps may be done again at any time. `users` is None where all functions share one Redis user."""

    def __init__(
        self,
        api: Api,
        config: ClusterConfig,
        *,
        policies: PolicyKeeper,
        credentials: CredentialsSource,
        users: RedisUsers | None,
    ) -> None:
        self._api = api
        self._config = config
        self._platform = PlatformKeys(config.prefix)
        self._policies = policies
        self._credentials = credentials
        self._users = users

    async def prepare(self, spec: FunctionSpec) -> None:
        """Policies, Redis user, key pair and Secret of a function.

        Raises PrepareError, ApiError, redis.exceptions.RedisError.
        """
        await self._policies.ensure(spec)
        if self._users is not None:
            try:
                await self._users.put(spec.uid, rules_of(self._config, spec))
            except (NoPermissionError, ResponseError) as error:
                text = (
                    f"Redis gives the function no user of its own: {error}. A managed Redis may not allow it; then "
                    "choose redis.acl: shared"
                )
                raise PrepareError("RedisUserRefused", text) from error
        self._credentials.put(spec)
        ca_file = self._config.redis_for_functions.ca_file
        ca = await asyncio.to_thread(Path(ca_file).read_text, "utf-8") if ca_file else None
        secret = function_secret(self._config, spec, ca)
        await self._api.apply(SECRETS, spec.namespace, secret["metadata"]["name"], secret)

    async def release(self, spec: FunctionSpec) -> None:
        """Take a deleted function's Redis user and key pair away; its Secret goes with the Function, its owner.

        Raises redis.exceptions.RedisError.
        """
        self._credentials.forget(spec.uid)
        if self._users is not None:
            await self._users.remove(spec.uid)


def rules_of(config: ClusterConfig, spec: FunctionSpec) -> tuple[str | bytes | float, ...]:
    """The rules of a function's Redis user."""
    return acl_rules(PlatformKeys(config.prefix), spec, redis_password(config.function_key, spec.uid))
