"""Lambda's operations, paths and input constraints, read from botocore's service model instead of written by hand."""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any, NoReturn
from urllib.parse import parse_qs, unquote

from botocore.loaders import Loader

from forebay_common import limits
from forebay_controller.lambda_errors import LambdaError

_OVERRIDES: dict[str, dict[str, Any]] = {
    # The model's ranges cover Managed Instances; these are a function's (Lambda quotas page).
    "Timeout": {"max": limits.TIMEOUT_MAX_S},
    "MemorySize": {"max": limits.MEMORY_MAX_MB},
    # Which runtimes there are is the platform's own matter (`settings_rules`).
    "Runtime": {"enum": None},
}
_SHOWN_MAX_CHARS = 10_000
"""A longer value is cut where an error repeats it."""
_QUERY_FIELDS_MAX = 200

# Java's classes of letters, separators and numbers, which Python's patterns lack. `\w` holds letters and numbers,
# and the underscore, which the only pattern with these classes (tags) allows too.
_JAVA_CLASSES = {
    r"\p{L}": r"\w",
    r"\p{N}": r"\w",
    r"\p{Z}": " \u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000",
}
_JSON_TOKENS = {
    type(None): "NULL_VALUE",
    str: "STRING_VALUE",
    bool: "TRUE_VALUE",
    int: "NUMBER_VALUE",
    float: "NUMBER_VALUE",
}


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation: its name, the shape of its input, and how it is addressed.

    `segments` are the path's parts, a label as `{Member}`; `query` is what the query string must hold, e.g.
    `{"List": "ALL"}`.
    """

    name: str
    method: str
    segments: tuple[str, ...]
    query: Mapping[str, str]
    input_shape: str

    def labels(self, segments: list[str]) -> dict[str, str] | None:
        """The path's labels with their percent-decoded values; None when the path is another one."""
        found: dict[str, str] = {}
        for wanted, given in zip(self.segments, segments, strict=True):
            if wanted.startswith("{"):
                found[wanted[1:-1]] = unquote(given, errors="replace")
            elif wanted != given:
                return None
        return found


@dataclass(frozen=True, slots=True)
class Request:
    """What a request addresses: an operation, its path labels and its query."""

    operation: Operation
    labels: Mapping[str, str]
    query: Mapping[str, list[str]]


class LambdaModel:
    """The service model, indexed by what a request shows."""

    def __init__(self, document: Mapping[str, Any]) -> None:
        self.shapes: dict[str, Mapping[str, Any]] = {
            name: {**shape, **_OVERRIDES.get(name, {})} for name, shape in document["shapes"].items()
        }
        self.operations: dict[str, Operation] = {}
        self._by_size: dict[tuple[str, int], list[Operation]] = {}
        for name, raw in document["operations"].items():
            path, _, query = raw["http"]["requestUri"].partition("?")
            segments = tuple(path.strip("/").split("/"))
            literal_query = {key: values[0] for key, values in parse_qs(query).items()}
            shape = raw.get("input", {}).get("shape", "")
            operation = Operation(name, raw["http"]["method"], segments, literal_query, shape)
            self.operations[name] = operation
            self._by_size.setdefault((operation.method, len(segments)), []).append(operation)
        for operations in self._by_size.values():
            operations.sort(key=_generality)

    def match(self, method: str, raw_path: str, query: str) -> Request | None:
        """The operation a request means; None when there is none. `raw_path` is percent-encoded.

        Raises LambdaError for a query that cannot be read.
        """
        try:
            fields = parse_qs(query, keep_blank_values=True, max_num_fields=_QUERY_FIELDS_MAX)
        except ValueError as error:
            raise LambdaError("SerializationException", "The query string cannot be read") from error
        segments = raw_path.strip("/").split("/")
        for operation in self._by_size.get((method, len(segments)), []):
            labels = operation.labels(segments)
            if labels is not None and all(fields.get(key) == [value] for key, value in operation.query.items()):
                return Request(operation, labels, fields)
        return None

    def read(self, request: Request, body: bytes) -> dict[str, Any]:
        """An operation's whole input, checked against the model: members of path, query and JSON body.

        Members that are null are left out; blobs stay base64. Raises LambdaError: SerializationException for
        another type than the model's, InvalidRequestContentException for a body that is not JSON,
        InvalidParameterValueException for a member the model does not know, ValidationException for the rest.
        """
        shape = self.shapes[request.operation.input_shape]
        members: dict[str, Any] = {}
        in_body: dict[str, Any] = {}
        for name, member in shape["members"].items():
            wire_name = member.get("locationName", name)
            match member.get("location"):
                case "uri":
                    members[name] = request.labels[wire_name]
                case "querystring" if wire_name in request.query:
                    members[name] = self._from_query(member["shape"], request.query[wire_name])
                case None:
                    in_body[name] = member
        if in_body:
            given = _parse_object(body)
            members |= self._typed({"type": "structure", "members": in_body}, given, "")
        found = list(self.violations(request.operation.input_shape, members))
        if found:
            raise LambdaError.constraints(found)
        return members

    def violations(self, shape_name: str, value: Any, path: str = "") -> Iterator[str]:
        """What of a well-typed value fails the model's constraints, in AWS's words."""
        shape = self.shapes[shape_name]
        kind = shape["type"]
        if kind == "structure":
            yield from self._structure_violations(shape, value, path)
            return
        failed = [text for text, holds in _constraints(shape) if not holds(value)]
        if kind == "list":
            inner = self.shapes[shape["member"]["shape"]]
            if inner["type"] == "structure":
                for number, item in enumerate(value, start=1):
                    yield from self.violations(shape["member"]["shape"], item, f"{path}.{number}.member")
            failed += _inner_failure("Member", inner, value)
        elif kind == "map":
            failed += _inner_failure("Map keys", self.shapes[shape["key"]["shape"]], value)
            failed += _inner_failure("Map value", self.shapes[shape["value"]["shape"]], value.values())
        shown = "" if self._is_sensitive(shape) else f" '{_shown(value)}'"
        for text in failed:
            yield f"Value{shown} at '{path}' failed to satisfy constraint: {text}"

    def _structure_violations(self, shape: Mapping[str, Any], value: dict[str, Any], path: str) -> Iterator[str]:
        required = shape.get("required", ())
        for name, member in shape["members"].items():
            inner_path = f"{path}.{_camel(name)}" if path else _camel(name)
            if name in value:
                yield from self.violations(member["shape"], value[name], inner_path)
            elif name in required:
                yield f"Value null at '{inner_path}' failed to satisfy constraint: Member must not be null"

    def _is_sensitive(self, shape: Mapping[str, Any]) -> bool:
        inner = [shape[part]["shape"] for part in ("key", "value", "member") if part in shape]
        return bool(shape.get("sensitive")) or any(self.shapes[name].get("sensitive") for name in inner)

    def _from_query(self, shape_name: str, values: list[str]) -> Any:
        kind = self.shapes[shape_name]["type"]
        if kind == "list":
            return values
        if kind == "integer":
            if not re.fullmatch(r"-?[0-9]{1,18}", values[-1]):
                raise _wrong_type("STRING_VALUE can not be converted to an Integer")
            return int(values[-1])
        return values[-1]

    def _typed(self, shape: Mapping[str, Any], value: Any, path: str) -> Any:
        """A JSON value, without its nulls, when it has the shape's types all the way down."""
        kind = shape["type"]
        if kind == "structure":
            members = shape["members"]
            given = _expect(dict, value, "a Structure")
            unknown = [name for name in given if name not in members and given[name] is not None]
            if unknown:
                raise LambdaError.invalid(f"The parameter {path}{unknown[0][:200]} is not supported")
            return {
                name: self._typed(self.shapes[members[name]["shape"]], item, f"{path}{name}.")
                for name, item in given.items()
                if item is not None
            }
        if kind == "list":
            inner = self.shapes[shape["member"]["shape"]]
            return [self._typed(inner, item, path) for item in _expect(list, value, "a List")]
        if kind == "map":
            inner = self.shapes[shape["value"]["shape"]]
            items = _expect(dict, value, "a Map").items()
            return {_text(key): self._typed(inner, item, path) for key, item in items if item is not None}
        if kind == "boolean":
            return _expect(bool, value, "a Boolean")
        if kind in {"integer", "long"}:
            return _expect(int, value, "an Integer")
        if kind == "double":
            return float(_expect((int, float), value, "a Double"))
        return _text(_expect(str, value, "a String"))


@cache
def load() -> LambdaModel:
    """The model that botocore carries; read once."""
    return LambdaModel(Loader().load_service_model("lambda", "service-2"))


@lru_cache(maxsize=256)
def compiled(pattern: str) -> re.Pattern[str]:
    """A model's pattern (Java's dialect) as Python's."""
    for java, python in _JAVA_CLASSES.items():
        pattern = pattern.replace(java, python)
    return re.compile(pattern)


def _constraints(shape: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Each constraint of a shape: AWS's text, and a test of a value."""
    minimum, maximum = shape.get("min"), shape.get("max")
    pattern, allowed = shape.get("pattern"), shape.get("enum")
    is_number = shape["type"] in {"integer", "long", "double"}
    what, size = ("value", lambda value: value) if is_number else ("length", len)
    if maximum is not None:
        yield f"Member must have {what} less than or equal to {maximum}", lambda value: size(value) <= maximum
    if minimum is not None:
        yield f"Member must have {what} greater than or equal to {minimum}", lambda value: size(value) >= minimum
    if pattern is not None:
        # A text that is far too long fails by its length already; matching it would take the interpreter for long.
        yield (
            f"Member must satisfy regular expression pattern: {pattern}",
            lambda value: len(value) <= _SHOWN_MAX_CHARS and compiled(pattern).fullmatch(value),
        )
    if allowed is not None:
        yield f"Member must satisfy enum value set: [{', '.join(allowed)}]", lambda value: value in allowed


def _inner_failure(what: str, shape: Mapping[str, Any], values: Any) -> list[str]:
    """The one text that stands for scalar items of a list or map of which any fails; it lists all constraints."""
    if shape["type"] in {"structure", "list", "map"}:
        return []
    constraints = list(_constraints(shape))
    if all(holds(value) for value in values for _, holds in constraints):
        return []
    return [f"{what} must satisfy constraint: [{', '.join(text for text, _ in constraints)}]"]


def _parse_object(body: bytes) -> Any:
    try:
        return json.loads(body or b"{}", parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        text = f"Could not parse request body into json: {error}"
        raise LambdaError("InvalidRequestContentException", text) from error


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _expect(wanted: Any, value: Any, name: str) -> Any:
    if isinstance(value, wanted) and (wanted is bool or not isinstance(value, bool)):
        return value
    if isinstance(value, dict):
        raise _wrong_type("Start of structure or map found where not expected.")
    if isinstance(value, list):
        raise _wrong_type("Start of list found where not expected")
    raise _wrong_type(f"{_JSON_TOKENS[type(value)]} can not be converted to {name}")


def _text(value: str) -> str:
    """A text that can be written as UTF-8: JSON can escape half of a surrogate pair."""
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise _wrong_type("A text holds half of a surrogate pair") from error
    return value


def _wrong_type(message: str) -> LambdaError:
    return LambdaError("SerializationException", message)


def _shown(value: Any) -> str:
    """A value as AWS's Java prints it."""
    if isinstance(value, dict):
        text = "{" + ", ".join(f"{key}={item}" for key, item in value.items()) + "}"
    elif isinstance(value, list):
        text = "[" + ", ".join(map(str, value)) + "]"
    else:
        text = str(value)
    return text if len(text) <= _SHOWN_MAX_CHARS else f"{text[:_SHOWN_MAX_CHARS]}…"


def _camel(name: str) -> str:
    return name[:1].lower() + name[1:]


def _generality(operation: Operation) -> tuple[int, int]:
    """Sorts literal paths and queries before labels, so that `…/event-invoke-config/list` is not a label's value."""
    return sum(segment.startswith("{") for segment in operation.segments), -len(operation.query)
