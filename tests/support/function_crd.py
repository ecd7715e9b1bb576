"""The Function's definition as the chart has it, for tests that need no cluster."""

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
