"""The access keys of an installation: what the controller checks requests by, and what it publishes to gateways.

SigV4's keys hold for a day each, so both are renewed; a record has tomorrow's key already, and midnight passes unseen.
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
from forebay_controller.background import end_tasks
from forebay_controller.key_pairs import KeyPair

RENEW_EVERY_S = 3_600.0
RETRY_S = 2.0

_log = logs.get(__name__)


class KeyRing:
    """All access keys. Call `start` once Redis answers, and `close` at the end."""

    def __init__(
        self,
        redis: Redis,
        platform: PlatformKeys,
        pairs: Iterable[KeyPair],
        *,
        region: str,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._redis = redis
        self._platform = platform
        self._pairs = tuple(pairs)
        self._region = region
        self._clock = clock
        self._records: dict[str, Credential] = {}
        self._renewing: asyncio.Task[None] | None = None
        self._derive()

    @property
    def credentials(self) -> Mapping[str, Credential]:
        """The records by access key id; a live view."""
        return MappingProxyType(self._records)

    async def start(self) -> None:
        """Publish the records, and renew them from now on. Raises redis.exceptions.RedisError."""
        await self.publish()
        self._renewing = asyncio.create_task(self._renew(), name="renewal of signing keys")

    async def close(self) -> None:
        """Stop renewing; what is published stays."""
        if self._renewing is not None:
            await end_tasks([self._renewing])

    async def publish(self) -> None:
        """Make Redis hold the records of now, and no others. Raises redis.exceptions.RedisError."""
        self._derive()
        for access_key_id in await published_credentials(self._redis, self._platform) - self._records.keys():
            await remove_credential(self._redis, self._platform, access_key_id)
        for credential in self._records.values():
            await publish_credential(self._redis, self._platform, credential)

    async def _renew(self) -> None:
        delay_s = RENEW_EVERY_S
        while True:
            await asyncio.sleep(delay_s)  # a clock's business, nothing that anybody announces
            try:
                await self.publish()
                delay_s = RENEW_EVERY_S
            except RedisError as error:
                _log.warning("the day's signing keys wait for Redis: %s", error)
                delay_s = RETRY_S

    def _derive(self) -> None:
        now_s = self._clock()
        self._records.update({pair.access_key_id: pair.credential(self._region, now_s) for pair in self._pairs})
