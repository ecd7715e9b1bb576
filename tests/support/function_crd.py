"""The Function's definition as the chart has it, for tests that need no cluster."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

TEMPLATE = Path(__file__).parents[2] / "charts" / "forebay" / "templates" / "crds" / "functions.yaml"


def definition() -> dict[str, Any]:
    """The CRD without the lines that helm fills in (labels and annotations)."""
    lines = [line for line in TEMPLATE.read_text().splitlines() if not line.lstrip().startswith("{{")]
    document: dict[str, Any] = yaml.safe_load("\n".join(lines))
    return document


def version() -> dict[str, Any]:
    """Its only version."""
    (only,) = definition()["spec"]["versions"]
    found: dict[str, Any] = only
    return found


def schema() -> dict[str, Any]:
    """What a Function object may be."""
    found: dict[str, Any] = version()["schema"]["openAPIV3Schema"]
    return found


def fields(node: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every named field below a schema with its own schema; `[]` in a path stands for a list's items."""
    for name, child in node.get("properties", {}).items():
        yield f"{path}.{name}", child
        yield from fields(child, f"{path}.{name}")
    if "items" in node:
        yield from fields(node["items"], f"{path}[]")


def violations(value: Any, node: dict[str, Any], path: str = "") -> Iterator[str]:
    """Paths of what a value has and its schema does not allow; rules in CEL are the API server's to judge."""
    if not isinstance(value, _TYPES[node["type"]]) or isinstance(value, bool) != (node["type"] == "boolean"):
        yield path
    elif isinstance(value, dict):
        members = node.get("properties", {})
        yield from (f"{path}.{name}" for name in value if name not in members)
        yield from (f"{path}.{name}" for name in node.get("required", ()) if name not in value)
        for name in value.keys() & members.keys():
            yield from violations(value[name], members[name], f"{path}.{name}")
    elif isinstance(value, list):
        if not node.get("minItems", 0) <= len(value) <= node["maxItems"]:
            yield path
        for index, item in enumerate(value):
            yield from violations(item, node["items"], f"{path}[{index}]")
    elif isinstance(value, str):
        if not node.get("minLength", 0) <= len(value) <= node["maxLength"] or not re.search(node["pattern"], value):
            yield path
    elif not node.get("minimum", value) <= value <= node.get("maximum", value):
        yield path


_TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
}
