"""The folder that gives functions boto3, as on Lambda, and nothing else of the platform's own environment.

Functions cannot write there, so what is not compiled beforehand is compiled again in each handler process that
imports it: half a second for boto3.
"""

import hashlib
import os
import shutil
import subprocess
import tempfile
from importlib import metadata
from pathlib import Path

from forebay_common import logs

_COMPILE_TIMEOUT_S = 120
_log = logs.get(__name__)

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
            source = Path(str(distribution.locate_file(file)))
            if ".." in file.parts or not source.exists():
                continue
            target = staged / file
            target.parent.mkdir(parents=True, exist_ok=True)
            _link_or_copy(source, target)
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
        # With its time of change: compiled files name their source by it.
        shutil.copy2(source, target)


def compile_for(executable: str, folder: Path) -> None:
    """Compile the folder for one interpreter; what is up to date is left alone. Seconds, once. Never raises."""
    command = [executable, "-I", "-S", "-m", "compileall", "-q", str(folder)]
    try:
        subprocess.run(command, capture_output=True, timeout=_COMPILE_TIMEOUT_S, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        _log.warning("boto3 could not be compiled for %s: functions import it more slowly: %s", executable, error)
