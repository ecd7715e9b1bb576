"""Instances as processes of this machine: what a start that fails leaves, and which files stay as long as needed."""

import asyncio
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from forebay_common.redis_client import RedisSettings
from forebay_common.spec import FunctionSpec
from forebay_controller import local_backend
from forebay_controller.interfaces import InstanceStartError
from forebay_controller.local_backend import PROCESS_GROUP, LocalBackend, LocalSettings
from support.waiting import wait_until

SPEC = FunctionSpec("default", "fn", "u1", "python3.11", "app.handler", "ab" * 32, 100)
OTHER = replace(SPEC, uid="u2", code_sha256="cd" * 32)


@pytest.fixture
def settings(tmp_path: Path) -> LocalSettings:
    run_dir = tmp_path / "run"
    return LocalSettings(
        prefix="test",
        redis=RedisSettings(unix_socket=str(tmp_path / "nobody-listens.sock")),
        region="us-east-1",
        account="000000000000",
        gateway_url="http://127.0.0.1:1",
        run_dir=run_dir,
        data_dir=tmp_path / "data",
        code_dir=run_dir / "code",
        boto_dir=tmp_path / "boto",
        isolation=PROCESS_GROUP,
        retry_delays_s=(1.0,),
        supervisor_pid=0,
    )


async def end(backend: LocalBackend, *instance_ids: str) -> None:
    """Kill instances and wait until they are gone."""
    gone = asyncio.Event()
    backend.on_exit(lambda _, __: None if backend.instances() else gone.set())
    for instance_id in instance_ids:
        await backend.kill(instance_id)
    await asyncio.wait_for(gone.wait(), 10)


async def test_a_start_that_fails_half_way_leaves_nothing(
    settings: LocalSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = LocalBackend(settings)
    await backend.adopt({})
    spawned: list[subprocess.Popen[bytes]] = []
    spawn = local_backend._spawn

    def first_only(*arguments: Any) -> subprocess.Popen[bytes]:
        if spawned:
            raise OSError("no more processes")
        spawned.append(spawn(*arguments))
        return spawned[0]

    monkeypatch.setattr(local_backend, "_spawn", first_only)

    with pytest.raises(InstanceStartError, match="no more processes"):
        await backend.start(SPEC, "i1")

    assert spawned[0].returncode is not None
    assert not list((settings.run_dir / "instances").iterdir())
    await backend.close()


async def test_unpacked_code_goes_with_the_last_instance_of_a_deleted_function(settings: LocalSettings) -> None:
    functions = {"u1": SPEC, "u2": OTHER}
    backend = LocalBackend(settings)
    await backend.adopt(functions)
    await backend.start(SPEC, "i1")
    await backend.start(OTHER, "i2")
    del functions["u1"]

    await end(backend, "i1", "i2")

    assert [path.name for path in settings.code_dir.iterdir()] == [OTHER.code_sha256]
    await backend.close()


async def test_a_running_instance_keeps_its_log_file_however_many_come_after_it(
    settings: LocalSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local_backend, "LOG_FILES_MAX", 2)
    folder = settings.data_dir / "logs" / "fn"
    folder.mkdir(parents=True)
    for number in range(3):
        (folder / f"old{number}.log").touch()
    backend = LocalBackend(settings)
    await backend.adopt({})
    await backend.start(SPEC, "i1")
    wait_until((folder / "i1.log").exists, "the first instance has its log")

    await backend.start(SPEC, "i2")
    await backend.start(SPEC, "i3")

    assert (folder / "i1.log").exists()
    assert not list(folder.glob("old*.log"))
    await end(backend, "i1", "i2", "i3")
    await backend.close()
