"""Where the example functions lie: beside the sources, or inside the installed package."""

from pathlib import Path


def folder() -> Path:
    """The folder of examples."""
    here = Path(__file__).resolve().parent
    packaged = here / "examples"
    return packaged if packaged.is_dir() else here.parents[1] / "examples"
