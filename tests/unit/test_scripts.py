import hashlib
import re
import subprocess
import sys

import pytest

from forebay_common import limits, scripts


@pytest.mark.parametrize("script", scripts.ALL, ids=lambda script: script.name)
def test_a_scripts_hash_is_the_one_of_its_file(script: scripts.Script) -> None:
    assert script.sha == hashlib.sha1(scripts.source(script).encode()).hexdigest()


def test_bounds_in_the_scripts_are_those_of_the_limits() -> None:
    """A script cannot read them from anywhere: it has its own copy."""
    texts = "\n".join(scripts.source(script) for script in scripts.ALL)
    copies = {
        "RESULT_WEIGHT": limits.RESULTS_MAX_BYTES // limits.RESULTS_MAX,
        "RESULTS_MAX_BYTES": limits.RESULTS_MAX_BYTES,
        "OUTBOX_MAX": limits.OUTBOX_MAX,
        "DEAD_TTL_S": limits.DEAD_LETTER_TTL_S,
        "DEAD_MAX": 2 * limits.DEAD_LETTERS_MAX,
        "PENDING_S": limits.CLAIM_TTL_S,
        "BODY_MARGIN_MS": limits.CLAIM_TTL_S * 1000,
    }
    for name, value in copies.items():
        assert set(re.findall(rf"^local {name} = (.*)$", texts, re.MULTILINE)) == {str(value)}


def test_importing_the_hashes_loads_no_module_that_slows_a_cold_start() -> None:
    slow = {"asyncio", "dataclasses", "enum", "hashlib", "importlib.resources", "inspect", "re", "redis", "typing"}
    program = "import sys; import forebay_common.scripts; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-S", "-c", f"import sys; sys.path.append('common'); {program}"],
                            check=True, capture_output=True, text=True).stdout.split()  # fmt: skip
    assert not slow & set(loaded)
