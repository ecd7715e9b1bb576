"""Watches on the ConfigMaps that functions' code comes from: each of them alone, never a namespace's others."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from forebay_common import logs
from forebay_controller.cluster.api import CONFIG_MAPS, Api, ApiError, Object
from forebay_controller.cluster.informer import Informer, Key

WATCHES_MAX = 500
"""Each is a connection to the API server."""

_log = logs.get(__name__)


class TooManyConfigMapsError(Exception):
    """No further ConfigMap is watched; the message says so for people."""


@dataclass(slots=True)
class _Watch:
    informer: Informer
    task: asyncio.Task[None]
    followers: set[Key] = field(default_factory=set)


class ConfigMapWatches:
    """Calls `changed(key)` for each Function that follows a ConfigMap which was changed, created or deleted."""

    def __init__(self, api: Api, changed: Callable[[Key], None]) -> None:
        self._api = api
        self._changed = changed
        self._watches: dict[Key, _Watch] = {}
        self._followed: dict[Key, Key] = {}

    async def follow(self, function: Key, name: str | None) -> None:
        """Follow this ConfigMap of the Function's namespace from now on, and no other (None: none).

        Raises TooManyConfigMapsError.
        """
        wanted = None if name is None else (function[0], name)
        if self._followed.get(function) == wanted:
            return
        await self._leave(function)
        if wanted is None:
            return
        if wanted not in self._watches:
            if len(self._watches) >= WATCHES_MAX:
                raise TooManyConfigMapsError(
                    f"{WATCHES_MAX} ConfigMaps with code are watched already, and no more can be: "
                    "use code.zip or code.inline"
                )
            self._watches[wanted] = self._begin(wanted)
        self._watches[wanted].followers.add(function)
        self._followed[function] = wanted

    async def close(self) -> None:
        """End all watches."""
        for watch in [*self._watches.values()]:
            await _end(watch)

    def _begin(self, wanted: Key) -> _Watch:
        namespace, name = wanted

        def tell(_old: Object | None, _new: Object | None) -> None:
            watch = self._watches.get(wanted)
            for follower in [*watch.followers] if watch is not None else ():
                self._changed(follower)

        selector = f"metadata.name={name}"
        informer = Informer(self._api, CONFIG_MAPS, (namespace,), field_selector=selector, on_change=tell)
        return _Watch(informer, asyncio.create_task(_run(informer), name=f"watch of ConfigMap {name}"))

    async def _leave(self, function: Key) -> None:
        followed = self._followed.pop(function, None)
        if followed is None:
            return
        watch = self._watches[followed]
        watch.followers.discard(function)
        if not watch.followers:
            del self._watches[followed]
            await _end(watch)


async def _run(informer: Informer) -> None:
    while True:
        try:
            await informer.start()
        except ApiError as error:
            # The code is read beside the watch, and tells people what is wrong.
            _log.warning("a ConfigMap cannot be watched, and is tried again: %s", error)
        else:
            await informer.failed()


async def _end(watch: _Watch) -> None:
    watch.task.cancel()
    await asyncio.wait({watch.task})
    await watch.informer.close()
