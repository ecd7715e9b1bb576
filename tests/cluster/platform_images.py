"""The images that the tests run: the platform's own and those of test functions, built once for each content."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from forebay_common import __version__

from .node import images, prerequisites, runtime
from .node.layout import CACHE, FOLDER
from .node.processes import locked
from .node.report import Progress

REPOSITORY = Path(__file__).parents[2]
REGISTRY = "docker.io/library"  # what a name without a registry means to a kubelet
CONTAINER_FUNCTION = "forebay-test-function:1"

_ARCHIVES = CACHE / "archives"
_LOADED = FOLDER / "loaded"  # what the node has; goes away with it
# Never part of an image, and some of it changes with every test run.
_LEFT_OUT = {"__pycache__", ".git", ".venv", ".venv-aws", ".pytest_cache", ".mypy_cache", ".ruff_cache"}


@dataclass(frozen=True)
class Source:
    """An image by its name without a registry, and the files that it is made from."""

    name: str
    dockerfile: Path
    context: Path
    inputs: Sequence[Path]

    def key(self) -> str:
        """A digest of everything that goes into it."""
        digest = hashlib.sha256()
        for path in (self.dockerfile, *(file for root in self.inputs for file in _files(root))):
            digest.update(f"{path.relative_to(REPOSITORY)}\0{path.stat().st_size}\0".encode())
            digest.update(path.read_bytes())
        return digest.hexdigest()[:16]


def _files(root: Path) -> Iterator[Path]:
    if root.is_file():
        yield root
        return
    for path in sorted(root.rglob("*")):
        if path.is_file() and not _LEFT_OUT.intersection(path.parts):
            yield path


def _platform(component: str, folder: str, *inputs: str) -> Source:
    wheel = ("pyproject.toml", "README.md", "requirements", "common")
    return Source(
        name=f"forebay-{component}:{__version__}",
        dockerfile=REPOSITORY / folder / "Dockerfile",
        context=REPOSITORY,
        inputs=[REPOSITORY / name for name in (*wheel, *inputs)],
    )


def sources() -> list[Source]:
    """Every image: of the platform, then of the test function that is a container image."""
    function = Path(__file__).parent / "container_function"
    return [
        _platform("gateway", "gateway", "gateway"),
        _platform("controller", "controller", "controller"),
        _platform("runtime", "runtime-image", "runtime-image"),
        _platform("valkey", "valkey-image", "valkey-image"),
        Source(CONTAINER_FUNCTION, function / "Dockerfile", function, [function]),
    ]


def ensure_loaded(progress: Progress) -> None:
    """Have every image on the running node, building only what has changed. Raises NodeError."""
    prerequisites.check(progress)
    with locked("images"):
        _ARCHIVES.mkdir(parents=True, exist_ok=True)
        _LOADED.mkdir(exist_ok=True)
        for source in sources():
            archive = _archive(source, progress)
            mark = _LOADED / archive.name
            if not mark.exists():
                progress.step(f"loading {source.name}")
                runtime.drop_image(f"{REGISTRY}/{source.name}")
                runtime.load_image(archive)
                mark.touch()


def _archive(source: Source, progress: Progress) -> Path:
    """The image as a file, from the cache if nothing that it is made from has changed."""
    stem = source.name.replace(":", "-")
    archive = _ARCHIVES / f"{stem}-{source.key()}.tar"
    if not archive.exists():
        fresh = archive.with_suffix(".new")
        fresh.unlink(missing_ok=True)  # of a build that was interrupted
        images.build(f"{REGISTRY}/{source.name}", source.dockerfile, source.context, fresh, progress)
        for old in _ARCHIVES.glob(f"{stem}-*.tar"):
            old.unlink()
        fresh.rename(archive)
    return archive
