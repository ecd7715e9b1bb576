"""The Dockerfiles and their script: what every image keeps to, and what each building tool is told."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from forebay_common import __version__, pod_layout

ROOT = Path(__file__).parents[2]
FOLDERS = ("gateway", "controller", "runtime-image", "valkey-image")
PYTHON = FOLDERS[:3]
COMPONENTS = ("gateway", "controller", "runtime", "valkey")


def text(folder: str) -> str:
    return (ROOT / folder / "Dockerfile").read_text()


def steps(folder: str) -> list[str]:
    """The file's instructions, each on one line and without comments."""
    lines = [line for line in text(folder).splitlines() if line and not line.lstrip().startswith("#")]
    return re.sub(r"\\\n\s*", "", "\n".join(lines)).splitlines()


@pytest.mark.parametrize("folder", FOLDERS)
def test_an_image_runs_as_a_user_by_number_and_says_what_it_is(folder: str) -> None:
    own = steps(folder)

    assert f"USER {pod_layout.RUNTIME_UID}:{pod_layout.RUNTIME_UID}" in own
    labels = next(step for step in own if step.startswith("LABEL"))
    for label in ("title", "description", "version"):
        assert f"org.opencontainers.image.{label}=" in labels
    assert "latest" not in text(folder)


@pytest.mark.parametrize("folder", PYTHON)
def test_python_images_build_on_one_argument_and_install_only_what_is_pinned_by_hash(folder: str) -> None:
    own = steps(folder)

    assert own[0] == "ARG PYTHON_IMAGE=python:3.13-slim"
    assert all(step.startswith("FROM ${PYTHON_IMAGE}") for step in own if step.startswith("FROM"))
    installs = [step for step in own if "pip install" in step]
    assert installs
    assert all("--require-hashes" in step and "--only-binary :all:" in step for step in installs)


def test_python_images_share_their_first_layer() -> None:
    first = {next(step for step in steps(folder) if "get_path" in step) for folder in PYTHON}

    assert len(first) == 1
    assert "'pip', 'setuptools', 'wheel'" in first.pop()


def test_the_runtimes_image_has_what_a_pod_is_made_of() -> None:
    own = text("runtime-image")

    for program in (pod_layout.RUNTIME_COMMAND[3], pod_layout.HANDLERS_COMMAND[3]):
        folder, name = Path(program).parent.name, Path(program).name
        assert f"COPY runtime-image/{folder} {pod_layout.PROGRAM_FOLDER}/{folder}" in own
        assert (ROOT / "runtime-image" / folder / name).exists()
    assert f"--target {pod_layout.BOTO_FOLDER} " in own
    command = ", ".join(f'"{part}"' for part in pod_layout.RUNTIME_COMMAND)
    assert f"CMD [{command}]" in own


def test_boto3_is_the_same_for_functions_on_a_cluster_and_on_one_machine() -> None:
    def pins(name: str) -> set[str]:
        return set(re.findall(r"^[a-z0-9-]+==\S+", (ROOT / "requirements" / name).read_text(), re.MULTILINE))

    functions = pins("functions.txt")
    assert {pin.split("==")[0] for pin in functions} >= {"boto3", "botocore", "s3transfer"}
    assert functions <= pins("dev.txt")


class Tools:
    """Building tools that do nothing but write down what they are called with."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.calls_file = folder / "calls"

    def add(self, name: str, script: str = "") -> None:
        """A tool; `script` runs after the note of the call."""
        path = self._folder / name
        path.write_text(f'#!/bin/sh\necho "{name} $*" >> {self.calls_file}\n{script}\n')
        path.chmod(0o755)

    def run(self, **variables: str) -> subprocess.CompletedProcess[str]:
        environment = {"PATH": f"{self._folder}:/usr/bin:/bin", **variables}
        # Tools that this machine has must not be found instead.
        for name in ("docker", "podman", "buildah"):
            if not (self._folder / name).exists():
                (self._folder / name).write_text("#!/bin/sh\nexit 1\n")
        return subprocess.run(
            [ROOT / "scripts" / "images.sh"], env=environment, capture_output=True, check=False, text=True
        )

    @property
    def calls(self) -> list[str]:
        return self.calls_file.read_text().splitlines()


@pytest.fixture
def tools(tmp_path: Path) -> Tools:
    return Tools(tmp_path)


SIZE = 'if [ "$1" = images ]; then echo 12 MB; fi'


def test_docker_builds_the_four_images_with_the_version_as_tag(tools: Tools) -> None:
    tools.add("docker", SIZE)

    done = tools.run()

    builds = [call for call in tools.calls if " build " in call]
    assert done.returncode == 0, done.stderr
    assert [call.split("--tag ")[1] for call in builds] == [f"forebay-{name}:{__version__} ." for name in COMPONENTS]
    assert all(f"--build-arg VERSION={__version__} " in call for call in builds)
    assert [call.split("--file ")[1].split()[0] for call in builds] == [f"{folder}/Dockerfile" for folder in FOLDERS]
    assert done.stdout.count("12 MB") == 4


def test_without_a_docker_daemon_podman_builds_under_the_name_that_kubernetes_looks_for(tools: Tools) -> None:
    tools.add("docker", "exit 1")
    tools.add("podman", SIZE)

    done = tools.run()

    builds = [call for call in tools.calls if call.startswith("podman build")]
    assert done.returncode == 0, done.stderr
    assert [call.split("--tag ")[1] for call in builds] == [
        f"docker.io/library/forebay-{name}:{__version__} ." for name in COMPONENTS
    ]
    assert "--build-arg PYTHON_IMAGE=docker.io/library/python:3.13-slim" in builds[0]


def test_a_base_image_can_be_chosen(tools: Tools) -> None:
    tools.add("docker", SIZE)

    tools.run(PYTHON_IMAGE="python:3.12-slim", BASE_IMAGE="debian:sid-slim")

    builds = [call for call in tools.calls if " build " in call]
    assert ["PYTHON_IMAGE=python:3.12-slim" in call for call in builds] == [True, True, True, False]
    assert ["BASE_IMAGE=debian:sid-slim" in call for call in builds] == [False, False, False, True]


def test_one_image_can_be_built_under_another_tag(tools: Tools) -> None:
    tools.add("docker", SIZE)

    tools.run(COMPONENTS="runtime", TAG="1-python3.12", PYTHON_IMAGE="python:3.12-slim")

    builds = [call for call in tools.calls if " build " in call]
    assert [call.split("--tag ")[1] for call in builds] == ["forebay-runtime:1-python3.12 ."]


def test_images_for_a_registry_are_pushed_and_for_several_platforms_as_one_name(tools: Tools) -> None:
    tools.add("docker", SIZE)
    tools.add("buildah")

    tools.run(REGISTRY="example.com/team")
    assert f"docker push example.com/team/forebay-valkey:{__version__}" in tools.calls
    tools.run(REGISTRY="example.com/team", PLATFORMS="linux/amd64,linux/arm64")
    assert sum("buildx build" in call and "--push" in call for call in tools.calls) == 4
    tools.run(REGISTRY="example.com/team", PLATFORMS="linux/amd64,linux/arm64", BUILDER="buildah --root /x")
    name = f"example.com/team/forebay-gateway:{__version__}"
    assert f"buildah --root /x manifest push --all {name} docker://{name}" in tools.calls


def test_a_build_that_fails_ends_with_the_tools_own_words(tools: Tools) -> None:
    tools.add("docker", 'if [ "$1" = build ]; then echo "no such base"; exit 3; fi')

    done = tools.run()

    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        "no such base",
        f"forebay-gateway:{__version__} could not be built: the reason is above",
    ]


def test_without_any_tool_it_says_which_would_do(tmp_path: Path) -> None:
    for name in ("sh", "dirname", "sed"):
        (tmp_path / name).symlink_to(shutil.which(name) or name)

    done = subprocess.run(
        [ROOT / "scripts" / "images.sh"], env={"PATH": str(tmp_path)}, capture_output=True, check=False, text=True
    )

    assert done.returncode == 1
    assert "needs docker (with its daemon running), podman or buildah: install one of them" in done.stderr


def test_several_platforms_without_a_registry_are_refused_with_what_to_do(tools: Tools) -> None:
    tools.add("docker", SIZE)

    done = tools.run(PLATFORMS="linux/amd64,linux/arm64")

    assert (done.returncode, done.stderr) == (
        1,
        "images for several platforms are pushed where they are built: set REGISTRY as well\n",
    )
