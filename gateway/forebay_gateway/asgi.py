"""The first look at every request: what may come in, and who serves it.

Raw ASGI, since Invoke passes through here; FastAPI stands behind it for the gateway's own documents only.
"""

import json
from collections import Counter
from collections.abc import Awaitable, Mapping
from uuid import uuid4

from starlette.types import ASGIApp, Receive, Scope, Send

from forebay_common import sigv4
from forebay_gateway.access import Access
from forebay_gateway.areas import HEALTH_PATHS, OPEN_PATHS, PROCESS, Area, area_of, is_invoke
from forebay_gateway.fn_route import FunctionRoute
from forebay_gateway.forwarder import Forwarder
from forebay_gateway.guard import Guard, Rule, caller_of
from forebay_gateway.http_event import Headers
from forebay_gateway.http_response import HttpAnswer, send_answer
from forebay_gateway.invoke import InvokeHandler
from forebay_gateway.lambda_errors import CONTENT_TYPE, Refusal

CONTROLLER_METRICS_PATH = b"/metrics"
_HOSTS_MAX = 64


class Entry:
    """The gateway's ASGI application. `refusals` counts what the guard let not in.

    `ports`: what each port serves, None where one port serves everything. `access` None: nobody is asked for a
    credential.
    """

    def __init__(
        self,
        *,
        guard: Guard,
        invoke: InvokeHandler,
        functions: FunctionRoute,
        forwarder: Forwarder,
        app: ASGIApp,
        refusals: Counter[Rule],
        ports: Mapping[int, frozenset[Area]],
        access: Access | None = None,
    ) -> None:
        self._guard = guard
        self._invoke = invoke
        self._functions = functions
        self._forwarder = forwarder
        self._app = app
        self._refusals = refusals
        self._ports = ports
        self._invoking = frozenset(port for port, areas in ports.items() if Area.INVOKE in areas)
        self._access = access
        self._hosts: set[bytes] = set()

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """Serve one HTTP request.

        No coroutine of its own, and for an AWS client's Invoke no second look at the headers: a Host that the guard
        has let in before, an Authorization and nothing that a browser would send is what the guard would let in. None
        of it changes while the process lives, so requests with the same head need not come here again.
        """
        listed = scope["headers"]
        raw_path = scope["raw_path"]
        if scope["method"] == "POST" and is_invoke(raw_path) and scope["server"][1] in self._invoking:
            headers = dict(listed)
            if (
                len(headers) == len(listed)
                and headers.get(b"host") in self._hosts
                and (headers.get(b"authorization") or headers.get(b"x-api-key"))
                and b"origin" not in headers
                and b"sec-fetch-site" not in headers
            ):
                connection, query = scope["state"]["connection"], scope["query_string"]
                if scope["http_version"] == "1.1":
                    connection.learn(headers, self._invoke.known(raw_path, query, headers))
                return self._invoke(connection, raw_path, query, headers, receive)
        return self._guarded(scope, receive, send)

    async def _guarded(self, scope: Scope, receive: Receive, send: Send) -> None:
        raw_path: bytes = scope["raw_path"]
        area = area_of(scope["method"], raw_path)
        served = self._ports.get(scope["server"][1], frozenset())
        caller = caller_of(scope["headers"])
        refusal = self._guard.check(area, caller)
        if refusal is not None:
            self._refusals[refusal.rule] += 1
            await _answer(scope, send, refusal.status, refusal.headers(), refusal.body())
        elif area not in served:
            await _answer(scope, send, 404, [CONTENT_TYPE], _elsewhere(served))
        elif area is Area.INVOKE:
            if len(self._hosts) < _HOSTS_MAX:
                self._hosts.add(caller.hosts[0])
            connection, query = scope["state"]["connection"], scope["query_string"]
            await self._invoke(connection, raw_path, query, sigv4.joined(scope["headers"]), receive)
        elif area is Area.FUNCTION:
            connection = scope["state"]["connection"]
            if scope["http_version"] == "1.1":
                headers = dict(scope["headers"])
                serve = self._functions.known(scope, headers)
                if serve is not None:
                    connection.learn(headers, serve)
            await self._functions(scope, receive, send, caller, connection)
        elif area is Area.OPEN or area is Area.CONTROLLER_METRICS:
            await self._process(scope, receive, send, served)
        else:
            await self._forwarder(scope, receive, send)

    async def _process(self, scope: Scope, receive: Receive, send: Send, served: frozenset[Area]) -> None:
        """Serve what is about the processes; all but their health is for who manages them, where anybody may ask."""
        raw_path = scope["raw_path"]
        if self._access is not None and served != PROCESS and raw_path not in HEALTH_PATHS:
            headers = sigv4.joined(scope["headers"])
            try:
                self._access.check_process(sigv4.Request(scope["method"], raw_path, scope["query_string"], headers))
            except Refusal as refusal:
                await _answer(scope, send, refusal.status, refusal.headers(), refusal.body())
                return
        if raw_path in OPEN_PATHS:
            await self._app(scope, receive, send)
        else:
            await self._forwarder(scope, receive, send, raw_path=CONTROLLER_METRICS_PATH)


async def _answer(scope: Scope, send: Send, status: int, headers: Headers, body: bytes) -> None:
    headers = [*headers, (b"x-amzn-requestid", str(uuid4()).encode())]
    await send_answer(send, HttpAnswer(status, headers, body), scope["method"])


def _elsewhere(served: frozenset[Area]) -> bytes:
    """The body of an answer to a path that another port serves."""
    names = ", ".join(sorted(_NAMES[area] for area in served if area in _NAMES))
    return json.dumps({"message": f"This port serves {names} only."}).encode()


_NAMES = {
    Area.INVOKE: "Invoke",
    Area.FUNCTION: "/fn",
    Area.OPEN: "health, metrics and documentation",
    Area.MANAGEMENT: "management",
}
