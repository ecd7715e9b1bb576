"""Containers' logs as a kubelet gives them, for the scripted API server: last lines, since when, stamps, following."""

import asyncio
import re
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import NamedTuple

from aiohttp import web

from support.scripted_api_server import ScriptedApiServer

PATH = re.compile(r"/api/v1/namespaces/(?P<namespace>[^/]+)/pods/(?P<pod>[^/]+)/log")


class Line(NamedTuple):
    """One line with the node's time."""

    stamp: str
    text: bytes


@dataclass
class LogFile:
    """One container's log. `ended`: the container has, and with it who follows."""

    lines: list[Line] = field(default_factory=list)
    ended: bool = False
    grown: asyncio.Condition = field(default_factory=asyncio.Condition)


class ScriptedPodLogs:
    """The logs of one scripted API server."""

    def __init__(self, server: ScriptedApiServer) -> None:
        self.files: dict[tuple[str, str], LogFile] = {}
        self.followers = 0
        self._broken = 0
        server.routes.append((PATH, self._answer))

    async def write(self, pod: str, container: str, text: bytes, stamp: str) -> None:
        """A line that the container writes at a time, in whole and parts of seconds."""
        file = self._file(pod, container)
        async with file.grown:
            file.lines.append(Line(stamp, text))
            file.grown.notify_all()

    async def end(self, pod: str, container: str) -> None:
        """The container has ended."""
        file = self._file(pod, container)
        async with file.grown:
            file.ended = True
            file.grown.notify_all()

    async def break_off(self) -> None:
        """End every stream that is open, as an API server that goes away does."""
        self._broken += 1
        for file in self.files.values():
            async with file.grown:
                file.grown.notify_all()

    def _file(self, pod: str, container: str) -> LogFile:
        return self.files.setdefault((pod, container), LogFile())

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        found = PATH.fullmatch(request.path)
        assert found is not None
        file = self._file(found["pod"], request.query["container"])
        stamped, follow = request.query["timestamps"] == "true", request.query["follow"] == "true"
        start = _start(file.lines, request.query.get("tailLines"), request.query.get("sinceTime"))
        response = web.StreamResponse()
        await response.prepare(request)
        began = self._broken
        self.followers += follow
        try:
            while True:
                for line in file.lines[start:]:
                    await response.write((line.stamp.encode() + b" " if stamped else b"") + line.text + b"\n")
                start = len(file.lines)
                if not follow or file.ended or self._broken != began:
                    return response
                async with file.grown:
                    if len(file.lines) == start and not file.ended and self._broken == began:
                        await file.grown.wait()
        finally:
            self.followers -= follow


def _start(lines: list[Line], tail: str | None, since: str | None) -> int:
    start = 0 if tail is None else max(0, len(lines) - int(tail))
    if since is not None:
        moment = datetime.fromisoformat(since)
        assert moment.tzinfo is not None
        while start < len(lines) and datetime.fromisoformat(lines[start].stamp).astimezone(UTC) < moment:
            start += 1
    return start
