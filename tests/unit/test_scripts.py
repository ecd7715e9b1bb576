import hashlib
import subprocess
import sys

import pytest

from forebay_common import scripts


@pytest.mark.parametrize("script", scripts.ALL, ids=lambda script: script.name)
def test_a_scripts_hash_is_the_one_of_its_file(script: scripts.Script) -> None:
    assert script.sha == hashlib.sha1(scripts.source(script).encode()).hexdigest()


def test_importing_the_hashes_loads_no_module_that_slows_a_cold_start() -> None:
    slow = {"asyncio", "dataclasses", "enum", "hashlib", "importlib.resources", "inspect", "re", "redis", "typing"}
    program = "import sys; import forebay_common.scripts; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-S", "-c", f"import sys; sys.path.append('common'); {program}"],
                            check=True, capture_output=True, text=True).stdout.split()  # fmt: skip
    assert not slow & set(loaded)
