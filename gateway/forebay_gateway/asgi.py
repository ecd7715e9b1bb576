"""The first look at every request: what may come in, and who serves it.

Raw ASGI, since Invoke passes through here; FastAPI stands behind it for the gateway's own documents only.
"""

from collections import Counter
from collections.abc import Awaitable
from uuid import uuid4

from starlette.types import ASGIApp, Receive, Scope, Send

from forebay_gateway.fn_route import FunctionRoute
from forebay_gateway.forwarder import Forwarder
from forebay_gateway.guard import Area, Guard, GuardRefusal, Rule, area_of, caller_of
from forebay_gateway.http_response import HttpAnswer, send_answer
from forebay_gateway.invoke import PATH_END, PATH_START, InvokeHandler

CONTROLLER_METRICS_PATH = b"/metrics"
_HOSTS_MAX = 64


class Entry:
    """The gateway's ASGI application. `refusals` counts what the guard let not in."""

    def __init__(
        self,
        *,
        guard: Guard,
        invoke: InvokeHandler,
        functions: FunctionRoute,
        forwarder: Forwarder,
        app: ASGIApp,
        refusals: Counter[Rule],
    ) -> None:
        self._guard = guard
        self._invoke = invoke
        self._functions = functions
        self._forwarder = forwarder
        self._app = app
        self._refusals = refusals
        self._hosts: set[bytes] = set()

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """Serve one HTTP request.

        No coroutine of its own, and for an AWS client's Invoke no second look at the headers: a Host that the guard
        has let in before, an Authorization and nothing that a browser would send is what the guard would let in.
        """
        raw_path: bytes = scope["raw_path"]
        listed = scope["headers"]
        if raw_path.endswith(PATH_END) and raw_path.startswith(PATH_START) and scope["method"] == "POST":
            headers = dict(listed)
            if (
                len(headers) == len(listed)
                and headers.get(b"host") in self._hosts
                and headers.get(b"authorization")
                and b"origin" not in headers
                and b"sec-fetch-site" not in headers
            ):
                return self._invoke(scope, receive, headers)
        return self._guarded(scope, receive, send)

    async def _guarded(self, scope: Scope, receive: Receive, send: Send) -> None:
        raw_path: bytes = scope["raw_path"]
        caller = caller_of(scope["headers"])
        refusal = self._guard.check(raw_path, caller)
        if refusal is not None:
            await self._refuse(scope, send, refusal)
            return
        if raw_path.endswith(PATH_END) and raw_path.startswith(PATH_START) and scope["method"] == "POST":
            if len(self._hosts) < _HOSTS_MAX:
                self._hosts.add(caller.hosts[0])
            await self._invoke(scope, receive, dict(scope["headers"]))
            return
        area = area_of(raw_path)
        if area is Area.FUNCTION:
            await self._functions(scope, receive, send, caller)
        elif area is Area.OPEN:
            await self._app(scope, receive, send)
        elif area is Area.CONTROLLER_METRICS:
            await self._forwarder(scope, receive, send, raw_path=CONTROLLER_METRICS_PATH)
        else:
            await self._forwarder(scope, receive, send)

    async def _refuse(self, scope: Scope, send: Send, refusal: GuardRefusal) -> None:
        self._refusals[refusal.rule] += 1
        headers = [*refusal.headers(), (b"x-amzn-requestid", str(uuid4()).encode())]
        await send_answer(send, HttpAnswer(refusal.status, headers, refusal.body()), scope["method"])
