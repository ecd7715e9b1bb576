"""Images without a registry: small ones written by hand, the Python base from Debian, the project's own by buildah."""

import hashlib
import io
import json
import platform
import shutil
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from .layout import BUSYBOX_IMAGE, CACHE, DEBIAN_IMAGE, PAUSE_IMAGE, PYTHON_IMAGE
from .processes import run
from .report import Progress
from .runtime import load_image

_STORE = CACHE / "images"
_BUILDAH = ("buildah", "--root", str(_STORE / "root"), "--runroot", str(_STORE / "run"), "--storage-driver", "overlay")
# The release whose Python is the one that PYTHON_IMAGE names: 13 has 3.13.
_DEBIAN_RELEASE = "trixie"
_DEBIAN_MIRROR = "http://deb.debian.org/debian"
_INSTALL_PYTHON = """
apt-get update -qq
DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \\
    ca-certificates python3 python3-pip python3-venv
rm -f /usr/lib/python3*/EXTERNALLY-MANAGED
ln -s /usr/bin/python3 /usr/local/bin/python
ln -s /usr/bin/python3 /usr/local/bin/python3
ln -s /usr/bin/pip3 /usr/local/bin/pip
rm -rf /usr/share/doc/* /usr/share/man/* /var/lib/apt/lists/* /var/cache/apt/*
"""
# What Debian's own slim images leave out, and what apt leaves behind.
_NOT_IN_SLIM_IMAGES = (
    *(f"usr/share/{folder}" for folder in ("doc", "info", "locale", "man")),
    "var/cache/apt",
    "var/lib/apt/lists",
)
_CERTIFICATES = "/etc/ssl/certs"
_IN_CONTAINER = ("--isolation=chroot", "--network=host")
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


def busybox_archive(folder: Path) -> Path:
    """An image with busybox and a name for each of its tools: what small tests run."""
    names = run(["busybox", "--list"], what="busybox's tools").split()
    return _archive(folder / "busybox.tar", BUSYBOX_IMAGE, ["sh"], [name for name in names if name != "busybox"])


def pause_archive(folder: Path) -> Path:
    """The image that holds a pod's namespaces; the kubelet asks for it by the container runtime's configuration."""
    return _archive(folder / "pause.tar", PAUSE_IMAGE, ["/bin/sleep", "infinity"], ["sleep"])


def _archive(path: Path, name: str, command: Sequence[str], tools: Sequence[str]) -> Path:
    """A docker-archive with one layer: busybox, links to it, /tmp and the accounts."""
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w") as files:
        for folder, mode in (("bin", 0o755), ("etc", 0o755), ("tmp", 0o1777)):
            files.addfile(_entry(folder, tarfile.DIRTYPE, mode))
        binary = Path(shutil.which("busybox") or "busybox").read_bytes()
        _add(files, "bin/busybox", binary, 0o755)
        _add(files, "etc/passwd", b"root:x:0:0::/:/bin/sh\nnobody:x:65534:65534::/:/bin/sh\n", 0o644)
        for tool in tools:
            link = _entry(f"bin/{tool}", tarfile.SYMTYPE, 0o777)
            link.linkname = "busybox"
            files.addfile(link)
    config = {
        "architecture": _ARCHITECTURES[platform.machine()],
        "os": "linux",
        "config": {"Env": ["PATH=/bin"], "Cmd": list(command)},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer.getvalue()).hexdigest()}"]},
    }
    manifest = [{"Config": "config.json", "RepoTags": [name], "Layers": ["layer.tar"]}]
    with tarfile.open(path, mode="w") as image:
        _add(image, "config.json", json.dumps(config).encode(), 0o644)
        _add(image, "layer.tar", layer.getvalue(), 0o644)
        _add(image, "manifest.json", json.dumps(manifest).encode(), 0o644)
    return path


def _entry(name: str, kind: bytes, mode: int) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.type = kind
    entry.mode = mode
    return entry


def _add(files: tarfile.TarFile, name: str, content: bytes, mode: int) -> None:
    entry = _entry(name, tarfile.REGTYPE, mode)
    entry.size = len(content)
    files.addfile(entry, io.BytesIO(content))


def ensure_bases(progress: Progress) -> None:
    """Have local images under the very names that the project's Dockerfiles ask for, so that they build unchanged."""
    there = _local_images()
    if DEBIAN_IMAGE not in there:
        progress.step(f"making {DEBIAN_IMAGE} from Debian packages (a minute; kept for the next time)")
        _make_debian()
    if PYTHON_IMAGE not in there:
        progress.step(f"making {PYTHON_IMAGE} from it (kept for the next time)")
        _make_python()


def _make_debian() -> None:
    _STORE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE) as made:
        root = Path(made) / "root"
        run(["debootstrap", "--variant=minbase", _DEBIAN_RELEASE, str(root), _DEBIAN_MIRROR], what=DEBIAN_IMAGE)
        for folder in _NOT_IN_SLIM_IMAGES:
            shutil.rmtree(root / folder)
            (root / folder).mkdir()
        with _container("scratch") as container:
            _buildah("add", "--quiet", container, str(root), "/")
            _buildah("config", "--cmd", "bash", container)
            _buildah("commit", "--quiet", container, DEBIAN_IMAGE)


def _make_python() -> None:
    """`python` and `pip` work as in the official image: found, and allowed to install beside Debian's packages."""
    with _container(DEBIAN_IMAGE) as container:
        command = ["run", *_IN_CONTAINER, container, "--", "sh", "-euc", _INSTALL_PYTHON]
        _buildah(*command)
        _buildah("config", "--cmd", "python3", "--env", "LANG=C.UTF-8", container)
        _buildah("commit", "--quiet", container, PYTHON_IMAGE)


@contextmanager
def _container(base: str) -> Iterator[str]:
    """A working container of buildah's, from an image that is there."""
    container = _buildah("from", "--pull-never", base).strip()
    try:
        yield container
    finally:
        _buildah("rm", container)


def build_and_load(name: str, dockerfile: Path, context: Path, progress: Progress) -> None:
    """Build an image from a Dockerfile and bring it to the running node. Raises NodeError with buildah's words."""
    with tempfile.TemporaryDirectory(dir=CACHE) as folder:
        archive = Path(folder) / "image.tar"
        build(name, dockerfile, context, archive, progress)
        load_image(archive)
    progress.step(f"{name} is on the node")


def build(name: str, dockerfile: Path, context: Path, archive: Path, progress: Progress) -> None:
    """Build an image from a Dockerfile into an archive that a node loads. Raises NodeError with buildah's words."""
    ensure_bases(progress)
    progress.step(f"building {name}")
    _buildah(
        "bud",
        *_IN_CONTAINER,
        "--pull-never",
        "--layers",
        f"--volume={_CERTIFICATES}:{_CERTIFICATES}:ro",  # pip trusts what this machine trusts
        f"--tag={name}",
        f"--file={dockerfile}",
        str(context),
    )
    _buildah("push", "--quiet", name, f"docker-archive:{archive}:{name}")


def _local_images() -> list[str]:
    return _buildah("images", "--format", "{{.Name}}:{{.Tag}}").split()


def _buildah(*arguments: str) -> str:
    return run([*_BUILDAH, *arguments], what=f"buildah {arguments[0]}")
