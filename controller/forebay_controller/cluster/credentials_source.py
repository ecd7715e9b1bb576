"""Who may call: access keys in Secrets beside the platform, and functions' own.

Every controller keeps the records to check management calls by; the leader publishes them to the gateways. SigV4's keys
hold for a day each, so records are made anew each hour; one has tomorrow's key already, and midnight passes unseen.
"""

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType

from redis.asyncio import Redis
from redis.exceptions import RedisError

from forebay_common import logs
from forebay_common.credentials import Credential
from forebay_common.function_table import publish_credential, published_credentials, remove_credential
from forebay_common.keys import PlatformKeys
from forebay_common.spec import FunctionSpec
from forebay_controller.background import end_tasks
from forebay_controller.cluster.access import access_key_id, credential_of
from forebay_controller.cluster.api import SECRETS, Api, Object
from forebay_controller.cluster.config import ClusterConfig
from forebay_controller.cluster.credential_secrets import SELECTOR, key_pairs
from forebay_controller.cluster.informer import Informer

RENEW_EVERY_S = 3_600.0
RETRY_S = 1.0

_log = logs.get(__name__)


class CredentialsSource:
    """All access keys of the installation."""

    def __init__(self, api: Api, config: ClusterConfig, *, clock: Callable[[], float] = time.time) -> None:
        self._config = config
        self._clock = clock
        self._informer = Informer(
            api, SECRETS, (config.release_namespace,), label_selector=SELECTOR, on_change=self._secrets_changed
        )
        self._pairs, self._problems = key_pairs(())
        self._functions: dict[str, FunctionSpec] = {}
        self._records: dict[str, Credential] = {}
        self._to_publish: set[str] = set()
        self._changed = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def credentials(self) -> Mapping[str, Credential]:
        """The records by access key id; a live view."""
        return MappingProxyType(self._records)

    async def start(self) -> None:
        """Read the Secrets, and follow them. Raises ApiError when they cannot be listed."""
        await self._informer.start()
        self._tasks.append(asyncio.create_task(self._renew(), name="renewal of signing keys"))

    async def close(self) -> None:
        """Stop; what is published stays."""
        await end_tasks(self._tasks)
        await self._informer.close()

    async def failed(self) -> None:
        """Return, by raising its error, when the Secrets are not followed any more."""
        await self._informer.failed()

    def put(self, spec: FunctionSpec) -> None:
        """A function may call others with its own key."""
        key_id = access_key_id(spec.uid)
        if key_id not in self._functions:
            self._functions[key_id] = spec
            self._derive([key_id])

    def forget(self, uid: str) -> None:
        """A function is gone, and its key with it."""
        key_id = access_key_id(uid)
        if self._functions.pop(key_id, None) is not None:
            self._derive([key_id])

    async def publish(self, redis: Redis, platform: PlatformKeys, functions: Iterable[FunctionSpec]) -> None:
        """Make Redis hold these records and no others, and from now on what changes. Raises RedisError."""
        for spec in functions:
            self.put(spec)
        for key_id in await published_credentials(redis, platform) - self._records.keys():
            await remove_credential(redis, platform, key_id)
        self._to_publish.update(self._records)
        await self._publish_changes(redis, platform)
        self._tasks.append(asyncio.create_task(self._publish(redis, platform), name="publishing of access keys"))

    def publish_again(self) -> None:
        """Redis may have lost records: all of them are written once more, which changes nothing where it did not."""
        self._to_publish.update(self._records)
        self._changed.set()

    async def _publish(self, redis: Redis, platform: PlatformKeys) -> None:
        while True:
            await self._changed.wait()
            try:
                await self._publish_changes(redis, platform)
            except RedisError as error:
                _log.warning("access keys wait for Redis: %s", error)
                await asyncio.sleep(RETRY_S)

    async def _publish_changes(self, redis: Redis, platform: PlatformKeys) -> None:
        self._changed.clear()
        for key_id in [*self._to_publish]:
            record = self._records.get(key_id)
            try:
                if record is None:
                    await remove_credential(redis, platform, key_id)
                else:
                    await publish_credential(redis, platform, record)
            except RedisError:
                self._changed.set()
                raise
            if self._records.get(key_id) is record:  # else it changed meanwhile
                self._to_publish.discard(key_id)

    async def _renew(self) -> None:
        while True:
            await asyncio.sleep(RENEW_EVERY_S)  # a clock's business, nothing that anybody announces
            self._derive([*self._pairs, *self._functions])

    def _secrets_changed(self, _old: Object | None, _new: Object | None) -> None:
        before = self._pairs
        self._pairs, problems = key_pairs(self._informer.objects.values())
        for name, problem in problems.items() - self._problems.items():
            _log.warning("the Secret %s is no access key: %s", name, problem)
        self._problems = problems
        self._derive([key for key in before.keys() | self._pairs.keys() if before.get(key) != self._pairs.get(key)])

    def _derive(self, key_ids: Iterable[str]) -> None:
        """Make records anew, and have those published that have changed."""
        now_s = self._clock()
        for key_id in key_ids:
            before = self._records.pop(key_id, None)
            pair, spec = self._pairs.get(key_id), self._functions.get(key_id)
            if pair is not None:
                self._records[key_id] = pair.credential(self._config.region, now_s)
            elif spec is not None:
                self._records[key_id] = credential_of(
                    self._config.function_key, spec, region=self._config.region, now_s=now_s
                )
            if before != self._records.get(key_id):
                self._to_publish.add(key_id)
                self._changed.set()
