"""The folder that gives functions boto3, as on Lambda, and nothing else of the platform's own environment."""

import hashlib
import os
import shutil
import tempfile
from importlib import metadata
from pathlib import Path

_DISTRIBUTIONS = ("boto3", "botocore", "jmespath", "python-dateutil", "s3transfer", "six", "urllib3")


def make_boto_folder(parent: Path) -> Path:
    """Make (or find) the folder under `parent`, one for each set of versions. About 2,500 files, linked if possible.

    Raises OSError when the folder cannot be written, metadata.PackageNotFoundError when boto3 is not installed.
    """
    distributions = [metadata.distribution(name) for name in _DISTRIBUTIONS]
    versions = " ".join(f"{found.name}={found.version}" for found in distributions)
    folder = parent / hashlib.sha256(versions.encode()).hexdigest()[:16]
    if folder.is_dir():
        return folder
    parent.mkdir(parents=True, exist_ok=True)
    staged = Path(tempfile.mkdtemp(prefix=".new-", dir=parent))
    staged.chmod(0o755)
    for distribution in distributions:
        for file in distribution.files or ():
            if file.suffix == ".pyc" or ".." in file.parts:
                continue
            target = staged / file
            target.parent.mkdir(parents=True, exist_ok=True)
            _link_or_copy(Path(str(distribution.locate_file(file))), target)
    try:
        staged.rename(folder)
    except OSError:
        # Another process made the same folder first: its content is the same, so ours can go.
        shutil.rmtree(staged)
        if not folder.is_dir():
            raise
    return folder


def _link_or_copy(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
