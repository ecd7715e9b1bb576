"""The chart rendered by helm, for tests that look at what it makes of its values."""

import json
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from .access import Cluster
from .platform_images import REPOSITORY

CHART = REPOSITORY / "charts" / "forebay"
NAME = "forebay"
NAMESPACE = "forebay"
# What stands before a configuration's name where a case looks into its JSON.
CONFIGURATION = "configuration "

Values = Mapping[str, Any]
Object = dict[str, Any]


@dataclass(frozen=True)
class Rendered:
    """What helm made: objects as they go to the API server."""

    objects: list[Object]

    def of_kind(self, kind: str) -> list[Object]:
        """All objects of a kind."""
        return [item for item in self.objects if item["kind"] == kind]

    def find(self, where: str) -> Object | None:
        """The object `KIND/NAME` or `KIND/NAMESPACE/NAME`, the JSON of `configuration COMPONENT`, or None."""
        if where.startswith(CONFIGURATION):
            component = where.removeprefix(CONFIGURATION)
            found: Object = json.loads(self.at(f"ConfigMap/{NAME}-{component}", f"data/{component}.json"))
            return found
        kind, *place, name = where.split("/")
        for item in self.of_kind(kind):
            metadata = item["metadata"]
            if metadata["name"] == name and place in ([], [metadata.get("namespace")]):
                return item
        return None

    def at(self, where: str, path: str) -> Any:
        """What an object has at a path of keys and indices with `/` between them (`~` for one in a key), or None."""
        found: Any = self.find(where)
        for key in (part.replace("~", "/") for part in path.split("/")):
            if isinstance(found, list):
                found = found[int(key)] if int(key) < len(found) else None
            else:
                found = (found or {}).get(key)
        return found

    def containers(self) -> Iterator[Object]:
        """Every container of every pod that it makes."""
        for spec in self.pods():
            yield from spec["containers"]
            yield from spec.get("initContainers", [])

    def pods(self) -> Iterator[Object]:
        """The spec of every pod that it makes."""
        for item in self.objects:
            if item["kind"] == "Pod":
                yield item["spec"]
            elif item["kind"] in {"Deployment", "StatefulSet", "Job"}:
                yield item["spec"]["template"]["spec"]


def nested(value: str, given: Any) -> dict[str, Any]:
    """A values file that sets one value by its path, keys with `.` between them."""
    for key in reversed(value.split(".")):
        given = {key: given}
    return dict(given)


def merged(*parts: Values) -> dict[str, Any]:
    """Values files put together, the later ones first."""
    found: dict[str, Any] = {}
    for part in parts:
        for key, given in part.items():
            both = isinstance(given, Mapping) and isinstance(found.get(key), Mapping)
            found[key] = merged(found[key], given) if both else given
    return found


def rendered_text(cluster: Cluster, values: Values, *arguments: str, namespace: str = NAMESPACE) -> str:
    """What `helm template` writes. Fails the test with what it said when it refuses the values."""
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        yaml.safe_dump(dict(values), file)
        file.flush()
        return cluster.helm(
            "template", NAME, str(CHART), f"--namespace={namespace}", f"--values={file.name}", *arguments
        )


def render(cluster: Cluster, values: Values, *arguments: str, namespace: str = NAMESPACE) -> Rendered:
    """The objects of `helm template`."""
    text = rendered_text(cluster, values, *arguments, namespace=namespace)
    return Rendered([item for item in yaml.load_all(text, yaml.CSafeLoader) if item])


def refusal(cluster: Cluster, values: Values, folder: Path, *, namespace: str = NAMESPACE, name: str = NAME) -> str:
    """What helm says when it refuses values; fails the test when it does not."""
    file = folder / "values.yaml"
    file.write_text(yaml.safe_dump(dict(values)))
    done = cluster.run("helm", "template", name, str(CHART), f"--namespace={namespace}", f"--values={file}")
    assert done.returncode != 0, f"helm took {values}"
    return done.stderr
