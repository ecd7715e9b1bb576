#!/usr/bin/env python3
"""Writes the chart's values.schema.json, and the tables in its README, from the comments in values.yaml.

`charts/document.py` writes both; with `--check` it only says whether they are as they should be (exit status 1 if not).
The comments: `# --` starts a value's text, `# @schema {…}` adds members of JSON Schema. A mapping without a text is a
section of values.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

CHART = Path(__file__).parent / "forebay"
VALUES = CHART / "values.yaml"
SCHEMA = CHART / "values.schema.json"
README = CHART / "README.md"
BEGIN, END = "<!-- values -->\n", "<!-- /values -->\n"
TEXT, MEMBERS = "-- ", "@schema "

_TYPES: dict[type, str] = {
    str: "string", bool: "boolean", int: "integer", float: "number", list: "array", dict: "object"
}  # fmt: skip


@dataclass(frozen=True)
class Value:
    """One value: its path, its text for people, its default, and what its comment adds to the schema."""

    path: tuple[str, ...]
    text: str
    default: Any
    members: dict[str, Any]

    def schema(self) -> dict[str, Any]:
        """Its JSON Schema: the type that the default has, unless the comment says otherwise."""
        found: dict[str, Any] = {"description": self.text}
        if "enum" not in self.members:
            found["type"] = _TYPES[type(self.default)]
        return found | self.members | {"default": self.default}

    def row(self) -> str:
        """Its line of the README's table."""
        kinds = self.schema().get("type", _TYPES[type(self.default)])
        kind = kinds if isinstance(kinds, str) else " or ".join(kinds)
        default = json.dumps(self.default, ensure_ascii=False)
        cells = (f"`{'.'.join(self.path)}`", kind, f"`{default}`", self.text)
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


@dataclass(frozen=True)
class Section:
    """A mapping of values, with what its comment says of all of them."""

    path: tuple[str, ...]
    text: str
    parts: "list[Section | Value]"

    def schema(self) -> dict[str, Any]:
        """Its JSON Schema, which knows no other values than those that are documented."""
        properties = {part.path[-1]: part.schema() for part in self.parts}
        if not self.path:
            properties["global"] = {"type": "object", "description": "What Helm gives to a chart inside another."}
        found: dict[str, Any] = {"type": "object", "additionalProperties": False, "properties": properties}
        return {"description": self.text, **found} if self.text else found

    def values(self) -> Iterator[Value]:
        """All its values, in the order of the file."""
        for part in self.parts:
            yield from part.values() if isinstance(part, Section) else [part]


def read(text: str) -> Section:
    """The values of a values.yaml. Raises ValueError for one that has no text."""
    node = yaml.compose(text)
    assert node is not None
    return _section((), "", node, yaml.safe_load(text), text.splitlines())


def _section(path: tuple[str, ...], about: str, node: yaml.Node, values: dict[str, Any], lines: list[str]) -> Section:
    assert isinstance(node, yaml.MappingNode)
    parts: list[Section | Value] = []
    for key, content in node.value:
        here = (*path, key.value)
        default = values[key.value]
        comment = list(_comment(lines, key.start_mark.line, key.start_mark.column))
        text, members = _parsed(comment)
        if text is not None:
            parts.append(Value(here, text, default, members))
        elif isinstance(default, dict):
            parts.append(_section(here, " ".join(comment), content, default, lines))
        else:
            raise ValueError(f"values.yaml line {key.start_mark.line + 1}: {'.'.join(here)} has no text ('# --')")
    return Section(path, about, parts)


def _comment(lines: list[str], line: int, column: int) -> Iterator[str]:
    """The comment right above a line, at the same indentation, without its marks."""
    first = line
    while first and lines[first - 1].startswith(" " * column + "#"):
        first -= 1
    for found in lines[first:line]:
        yield found.strip().removeprefix("#").strip()


def _parsed(comment: list[str]) -> tuple[str | None, dict[str, Any]]:
    """A value's text, None when the comment has none, and its schema members."""
    text: list[str] = []
    members: dict[str, Any] = {}
    for line in comment:
        if line.startswith(MEMBERS):
            members = json.loads(line.removeprefix(MEMBERS))
        elif line.startswith(TEXT) or text:
            text.append(line.removeprefix(TEXT))
    return (" ".join(text) if text else None), members


def schema_text(values: Section) -> str:
    """The whole values.schema.json."""
    document = {"$schema": "http://json-schema.org/draft-07/schema#", **values.schema()}
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def tables(values: Section) -> str:
    """The README's part about values: one table of what stands at the top, then one for each section."""
    head = "| Value | Type | Default | What |\n|---|---|---|---|"
    single = [part.row() for part in values.parts if isinstance(part, Value)]
    blocks = ["\n".join(("### Of the whole", "", head, *single))]
    for part in values.parts:
        if isinstance(part, Section):
            about = (part.text, "") if part.text else ()
            rows = (value.row() for value in part.values())
            blocks.append("\n".join((f"### `{part.path[-1]}`", "", *about, head, *rows)))
    return "\n\n".join(blocks) + "\n"


def readme_text(before: str, values: Section) -> str:
    """The README with its tables made anew. Raises ValueError when it has no place for them."""
    head, begin, rest = before.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"README.md has no lines {BEGIN.strip()} and {END.strip()}")
    return f"{head}{BEGIN}\n{tables(values)}\n{END}{tail}"


def main() -> int:
    """Return the exit status."""
    parser = argparse.ArgumentParser(description="Write the chart's schema and README from values.yaml.")
    parser.add_argument("--check", action="store_true", help="write nothing; fail when something would change")
    checking = parser.parse_args().check
    values = read(VALUES.read_text("utf-8"))
    made = {SCHEMA: schema_text(values), README: readme_text(README.read_text("utf-8"), values)}
    stale = [path for path, text in made.items() if not path.exists() or path.read_text("utf-8") != text]
    for path in stale:
        if checking:
            sys.stderr.write(f"{path.name} is not what values.yaml says: run charts/document.py\n")
        else:
            path.write_text(made[path], "utf-8")
    return int(checking and bool(stale))


if __name__ == "__main__":
    sys.exit(main())
