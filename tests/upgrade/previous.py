"""The release before this one: its wheel, made from its commit, and an interpreter that has it."""

import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

PREVIOUS = "9d24f9ea0854c5f60e33111301df3d2271443fa9"
"""The commit whose parts must work together with this tree's. A release that changes what crosses process boundaries
in a way that needs two steps (docs/queue-protocol.md, "Old beside new") sets it to the release before."""
ROOT = Path(__file__).parents[2]


def previous_python(folder: Path) -> str:
    """An interpreter that imports the previous release's wheel, and this environment's packages beside it."""
    source, built, site = folder / "source", folder / "built", folder / "site"
    source.mkdir()
    archive = folder / "source.tar"
    archived = subprocess.run(
        ["git", "archive", "--output", archive, PREVIOUS], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert archived.returncode == 0, (
        f"the previous release's commit {PREVIOUS} is not in this clone: fetch the whole history ({archived.stderr})"
    )
    subprocess.run(["tar", "-xf", archive, "-C", source], check=True)
    build = (sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation")
    subprocess.run([*build, "--wheel-dir", built, source], check=True)
    [wheel] = built.glob("*.whl")
    ZipFile(wheel).extractall(site)
    venv = folder / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True, capture_output=True)
    [packages] = venv.glob("lib/python*/site-packages")
    # The wheel first; a folder named here is searched, but what its own .pth files say is not.
    beside = [path for path in sys.path if path.endswith("site-packages")]
    (packages / "previous.pth").write_text("".join(f"{path}\n" for path in (site, *beside)))
    return str(venv / "bin" / "python")
