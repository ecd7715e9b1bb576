"""One OpenAPI document for all that is not Lambda's: the gateway's own paths, `/fn`, and the controller's."""

import copy
from typing import Any

from forebay_gateway.areas import Area, area_of

Document = dict[str, Any]

_AUTHORIZATION = "authorization"
_METHODS = ("get", "put", "post", "delete", "patch", "head", "options")


def merged(own: Document, controller: Document | None) -> Document:
    """The gateway's document with `/fn` and the controller's paths; None: the controller is away, its paths lack.

    Paths that the gateway would serve itself are left out of the controller's, and its metrics are named as they
    are reached here. Where both define a schema of one name, the gateway's stands.
    """
    document = copy.deepcopy(own)
    paths: Document = document.setdefault("paths", {})
    components: Document = document.setdefault("components", {})
    paths.update(function_paths())
    for path, item in (controller or {}).get("paths", {}).items():
        if path == "/metrics":
            paths["/controller/metrics"] = _named_apart(item)
        elif area_of("GET", path.encode()) is Area.MANAGEMENT:
            paths[path] = _with_authorization(item)
    for kind, found in (controller or {}).get("components", {}).items():
        components[kind] = {**found, **components.get(kind, {})}
    components.setdefault("securitySchemes", {})[_AUTHORIZATION] = {
        "type": "apiKey",
        "in": "header",
        "name": "Authorization",
        "description": (
            "`Bearer ACCESSKEYID.SECRETACCESSKEY`, or an AWS client's signature; X-Api-Key does as well. Where no "
            "credentials are asked for (one machine, loopback) any value: it shows that no web page sent the request."
        ),
    }
    return document


def function_paths() -> Document:
    """`/fn/NAME` and what lies below it, for every method."""
    name = {"name": "name", "in": "path", "required": True, "schema": {"type": "string"}}
    path = {"name": "path", "in": "path", "required": True, "schema": {"type": "string"}}
    return {"/fn/{name}": _function_item([name]), "/fn/{name}/{path}": _function_item([name, path])}


def _function_item(parameters: list[Document]) -> Document:
    suffix = "path" if len(parameters) > 1 else "root"
    return {
        "parameters": [
            *parameters,
            *[_header(name, description) for name, description in _HEADERS.items()],
        ],
        **{method: _function_operation(method, suffix) for method in _METHODS},
    }


def _header(name: str, description: str) -> Document:
    return {"name": name, "in": "header", "schema": {"type": "string"}, "description": description}


_HEADERS = {
    "Prefer": "`respond-async`: accept the request and answer 202 at once.",
    "Idempotency-Key": "A string in double quotes: a request sent again under it runs once and is answered alike.",
    "X-Forebay-Delay": "Async: run it this many seconds later, at most 1209600.",
    "X-Forebay-At": "Async: run it at this moment (RFC 3339), at most 14 days ahead.",
    "X-Forebay-Group": "Async: run it after all earlier events of the group.",
    "X-Forebay-Wait-Ms": "Not async: wait so many milliseconds for the answer, if the function's own wait is longer.",
}


def _function_operation(method: str, suffix: str) -> Document:
    return {
        "tags": ["functions"],
        "summary": "Call a function over HTTP",
        "description": "The handler gets the request as an event of payload format 2.0 and decides on the answer.",
        "operationId": f"call_{method}_{suffix}",
        "responses": {
            "200": {"description": "What the handler answered; it may set any status from 200 to 599."},
            "202": {
                "description": "Accepted (`Prefer: respond-async`): the event is queued and will run.",
                "headers": {
                    "Preference-Applied": {"schema": {"type": "string"}},
                    "Idempotency-Replayed": {"schema": {"type": "string"}},
                },
                "content": {"application/json": {"schema": _ACCEPTED}},
            },
            "400": _failure("A header's value is none, or is not for this kind of call."),
            "403": _failure("The request comes from another site's page."),
            "404": _failure("There is no such function."),
            "409": _failure("The first call under the Idempotency-Key is not done yet.", retry=True),
            "413": _failure("The request is too large: above 6 MB, above 1 MB when async."),
            "422": _failure("The Idempotency-Key was used for another request."),
            "429": _failure("No instance took the call in time, or too many are waiting.", retry=True),
            "502": _failure("The function failed, or its instances cannot start."),
            "503": _failure("The queue is away.", retry=True),
            "504": _failure("The wait is over; the call may still be running."),
        },
    }


_ACCEPTED: Document = {
    "type": "object",
    "required": ["invocationId"],
    "properties": {"invocationId": {"type": "string", "format": "uuid"}},
}


def _failure(description: str, *, retry: bool = False) -> Document:
    message = {"type": "object", "properties": {"message": {"type": "string"}}}
    found: Document = {"description": description, "content": {"application/json": {"schema": message}}}
    if retry:
        found["headers"] = {"Retry-After": {"schema": {"type": "integer"}}}
    return found


def _with_authorization(item: Document) -> Document:
    return {
        key: {**value, "security": [{_AUTHORIZATION: []}]} if key in _METHODS else value for key, value in item.items()
    }


def _named_apart(item: Document) -> Document:
    """The same operations under ids of their own: the gateway has a metrics path too."""
    return {
        key: {**value, "operationId": f"controller_metrics_{key}"} if key in _METHODS else value
        for key, value in item.items()
    }
