"""The primary that sentinels know (https://redis.io/docs/latest/develop/reference/sentinel-clients/).

Asked at each new connection: what was the primary may be a replica now, or gone. That a server which sentinels name is
the primary is believed only once it says so itself (`is_primary`): a sentinel may be behind.
"""

from dataclasses import replace
from typing import Any

from forebay_common.redis_exchange import ExchangeError, ask
from forebay_common.redis_settings import Address, RedisSettings

ANSWER_TIMEOUT_S = 1.0
"""Of one sentinel; the next is asked then. A few of them together are less than a connection may take."""


class Sentinels:
    """Some of the sentinels of one primary. The one that answered last is asked first."""

    def __init__(self, settings: RedisSettings) -> None:
        assert settings.sentinel_master is not None
        self._settings = replace(
            settings, username=settings.sentinel_username, password=settings.sentinel_password, db=0
        )
        self._master = settings.sentinel_master
        self._nodes = list(settings.nodes)

    async def primary(self) -> Address:
        """Where the primary is, as far as the first sentinel that answers knows. Raises ExchangeError."""
        problems = []
        for node in list(self._nodes):
            question = ("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self._master)
            try:
                [answer] = await ask(self._settings.at(node), [question], ANSWER_TIMEOUT_S)
            except ExchangeError as error:
                problems.append(str(error))
                continue
            if answer is None:
                problems.append(f"{node}: it knows no primary {self._master!r}")
                continue
            self._nodes.remove(node)
            self._nodes.insert(0, node)
            return Address(answer[0].decode(), int(answer[1]))
        raise ExchangeError(f"no sentinel tells where the primary is ({'; '.join(problems)})")


def is_primary(role: Any) -> bool:
    """Whether a server's answer to ROLE says that it takes writes (pure)."""
    return isinstance(role, list) and bool(role) and role[0] in {b"master", "master"}
