"""Instances as process trees on one machine: a runtime and the handlers' program in its sandbox.

The two programs share a Unix socket and the code folder, nothing else. Instances outlive the controller: each
folder under the run dir records its processes by pid and start time, and the next controller adopts them.
"""

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

import hiredis

import forebay_common
import forebay_handlers
from forebay_common import limits
from forebay_common.memory import MALLOC_ENVIRONMENT
from forebay_common.names import LATEST, function_arn
from forebay_common.redis_settings import RedisSettings
from forebay_common.spec import FunctionSpec
from forebay_controller.boto_folder import compile_for
from forebay_controller.environment import RUNTIME_DIR, TASK_ROOT, handler_environment
from forebay_controller.instance_folder import InstanceFolder, InstanceRecord
from forebay_controller.interfaces import ExitReport, InstanceStartError, RunningInstance
from forebay_controller.interpreters import Interpreter, find_interpreter, own_interpreter
from forebay_controller.process_watch import WatchedProcess
from forebay_controller.retry_delays import retry_delays_ms

LOG_FILE_MAX_BYTES = 8 * limits.MIB
LOG_FILES_MAX = 20
LOG_CHECK_S = 10
UNPRIVILEGED_UID = 65_534
LAST_ANSWERS_S = 1.0
NAMESPACES = "namespaces"
PROCESS_GROUP = "process_group"
OPEN_DIR = 0o711

SANDBOX = Path(forebay_handlers.__file__).with_name("sandbox.py")
# By its file: `-m` loads half a dozen modules more, and this start is the cold start. The layout is the wheel's.
RUNTIME = SANDBOX.parents[1] / "forebay_runtime" / "__main__.py"
PACKAGES = os.pathsep.join(sorted({str(Path(package.__path__[0]).parent) for package in (forebay_common, hiredis)}))
"""Where a runtime finds what it needs of others."""


@dataclass(frozen=True, slots=True)
class LocalSettings:
    """What every instance of this machine shares. `isolation` is `namespaces` or `process_group`.

    `code_dir` holds unpacked code, one folder for each package. `access_key` (id and secret) is what functions call
    each other with; None where nobody asks for one.
    """

    prefix: str
    redis: RedisSettings
    region: str
    account: str
    gateway_url: str
    run_dir: Path
    data_dir: Path
    code_dir: Path
    boto_dir: Path
    isolation: str
    retry_delays_s: tuple[float, ...]
    supervisor_pid: int
    access_key: tuple[str, str] | None = None


class _Instance:
    """One instance as this controller sees it."""

    __slots__ = ("code_sha256", "expected", "folder", "running", "runtime", "sandbox")

    def __init__(
        self,
        running: RunningInstance,
        folder: InstanceFolder,
        code_sha256: str,
        processes: tuple[WatchedProcess | None, WatchedProcess | None],
    ) -> None:
        self.running = running
        self.folder = folder
        self.code_sha256 = code_sha256
        self.runtime, self.sandbox = processes
        self.expected = False


class LocalBackend:
    """`InstanceBackend` on local processes."""

    starts_at_once_max = 2 * (os.cpu_count() or 1)
    """More at once would only make the first of a burst ready later: they share the cores."""
    quick_instances_max = max(1, (os.cpu_count() or 1) // 2)
    """The other half of the cores is for the gateway, Redis and whoever calls."""
    replaces_first = False

    def __init__(self, settings: LocalSettings) -> None:
        self._settings = settings
        self._parent = settings.run_dir / "instances"
        # Without a mount namespace another uid reaches its socket and code by our own paths: these may be passed
        # through, and each file in them keeps its own mode.
        self._paths_are_shared = settings.isolation != NAMESPACES and os.geteuid() == 0
        self._instances: dict[str, _Instance] = {}
        self._functions: Mapping[str, FunctionSpec] = {}
        self._report: ExitReport = _ignore
        self._log_task: asyncio.Task[None] | None = None
        # The platform's own interpreter finds boto3 compiled, since it was installed by it.
        self._compiled = {own_interpreter().executable}

    def instances(self) -> Mapping[str, RunningInstance]:
        """Those that run, also ones that an earlier controller started."""
        return {instance_id: instance.running for instance_id, instance in self._instances.items()}

    def on_exit(self, report: ExitReport) -> None:
        """Call `report` when an instance is gone."""
        self._report = report

    async def start(self, spec: FunctionSpec, instance_id: str) -> None:
        """Start both programs. Raises InstanceStartError when a file or a process cannot be made."""
        folder = InstanceFolder(self._parent, instance_id)
        running = RunningInstance(instance_id, spec.uid, spec.revision, int(time.time() * 1000))
        spawned: list[subprocess.Popen[bytes]] = []
        try:
            self._write_files(spec, folder, instance_id)
            spawned.append(self._spawn_runtime(folder))
            spawned.append(self._spawn_sandbox(folder))
            runtime, sandbox = map(WatchedProcess.of_child, spawned)
        except OSError as error:
            for child in spawned:
                child.kill()
                child.wait()
            folder.remove()
            raise InstanceStartError(f"an instance could not be started on this machine: {error}") from error
        folder.write_record(
            InstanceRecord(
                spec.uid,
                spec.revision,
                spec.code_sha256,
                running.started_at_ms,
                (runtime.pid, runtime.started),
                (sandbox.pid, sandbox.started),
            )
        )
        self._watch(_Instance(running, folder, spec.code_sha256, (runtime, sandbox)))

    async def stop(self, instance_id: str) -> None:
        """Have the runtime drain; the sandbox ends with it."""
        instance = self._instances.get(instance_id)
        if instance is not None:
            instance.expected = True
            if instance.runtime is not None:
                instance.runtime.send(signal.SIGTERM)

    async def kill(self, instance_id: str) -> None:
        """End both programs at once; the report follows when they are gone."""
        instance = self._instances.get(instance_id)
        if instance is not None:
            instance.expected = True
            _end(instance)

    async def adopt(self, functions: Mapping[str, FunctionSpec]) -> None:
        """Watch the instances that an earlier controller left, and clear away what is left of dead ones."""
        self._parent.mkdir(mode=OPEN_DIR if self._paths_are_shared else 0o700, parents=True, exist_ok=True)
        for path in sorted(self._parent.iterdir()):
            if path.name in self._instances:
                continue
            folder = InstanceFolder(self._parent, path.name)
            record = folder.read_record()
            runtime = WatchedProcess.of_stranger(*record.runtime) if record else None
            sandbox = WatchedProcess.of_stranger(*record.sandbox) if record else None
            if record is None or (runtime is None and sandbox is None):
                folder.remove()
                continue
            running = RunningInstance(path.name, record.uid, record.revision, record.started_at_ms)
            self._watch(_Instance(running, folder, record.code_sha256, (runtime, sandbox)))
        self._functions = functions
        await asyncio.to_thread(_remove_other_code, self._settings.code_dir, self._code_in_use())
        if self._log_task is None:
            self._log_task = asyncio.create_task(self._bound_logs(), name="bound-logs")

    async def close(self) -> None:
        """Let go of the instances; they keep running."""
        if self._log_task is not None:
            self._log_task.cancel()

    def _watch(self, instance: _Instance) -> None:
        self._instances[instance.running.instance_id] = instance
        for process in (instance.runtime, instance.sandbox):
            if process is not None:
                process.watch(lambda: self._one_ended(instance))
        if instance.runtime is None or instance.sandbox is None:
            _end(instance)

    def _one_ended(self, instance: _Instance) -> None:
        """One program is no instance: end the other, and report once both are gone."""
        runtime, sandbox = instance.runtime, instance.sandbox
        runtime_gone = runtime is None or runtime.gone
        if not (runtime_gone and (sandbox is None or sandbox.gone)):
            if runtime_gone:
                _end(instance)
            else:
                # A runtime that lost its handlers' program answers its calls and ends by itself; one whose handlers'
                # program never came would wait for it.
                asyncio.get_running_loop().call_later(LAST_ANSWERS_S, _end, instance)
            return
        reason = self._reason(instance)
        del self._instances[instance.running.instance_id]
        instance.folder.remove()
        self._forget_code(instance)
        self._report(instance.running.instance_id, reason)

    def _reason(self, instance: _Instance) -> str:
        code = instance.runtime.exit_code if instance.runtime is not None else None
        if instance.expected or code == 0:
            return ""
        words = instance.folder.last_words()
        if words:
            return words
        if code is None:
            return "it ended; how is not known, since an earlier controller had started it"
        return f"it was killed by signal {-code}" if code < 0 else f"its runtime ended with exit code {code}"

    def _write_files(self, spec: FunctionSpec, folder: InstanceFolder, instance_id: str) -> None:
        settings = self._settings
        folder.create(OPEN_DIR if self._paths_are_shared else 0o700)
        code_dir = self._code_folder(spec.code_sha256)
        code_dir.mkdir(parents=True, exist_ok=True)
        log_dir = settings.data_dir / "logs" / spec.name
        log_dir.mkdir(parents=True, exist_ok=True)
        _drop_oldest(log_dir, self._instances.keys())
        inside = settings.isolation == NAMESPACES
        boto_path = RUNTIME_DIR if inside else str(settings.boto_dir)
        task_root = TASK_ROOT if inside else str(code_dir)
        interpreter = find_interpreter(spec.runtime)
        self._compile_boto(interpreter)
        folder.write(
            folder.settings,
            {
                "prefix": settings.prefix,
                "instance_id": instance_id,
                "namespace": spec.namespace,
                "name": spec.name,
                "uid": spec.uid,
                "version": LATEST,
                "revision": spec.revision,
                "arn": function_arn(settings.region, settings.account, spec.name),
                "handler": spec.handler,
                "runtime": spec.runtime,
                "mode": "bootstrap" if spec.runtime.startswith("provided") else "python",
                "code_dir": str(code_dir),
                "task_root": task_root,
                "code_sha256": spec.code_sha256,
                "code_size": spec.code_size,
                "timeout_ms": spec.timeout_s * 1000,
                "memory_mb": spec.memory_mb,
                "concurrency": spec.scale.concurrency,
                "env": handler_environment(
                    spec,
                    instance_id=instance_id,
                    region=settings.region,
                    gateway_url=settings.gateway_url,
                    task_root=task_root,
                    runtime_dir=boto_path,
                    tmp_dir="/tmp" if inside else str(folder.tmp),  # noqa: S108 - private in its own mount namespace
                    access_key=settings.access_key,
                ),
                "socket_path": str(folder.socket),
                "boto_path": boto_path,
                "retry_delays_ms": retry_delays_ms(spec, settings.retry_delays_s),
                "init_timeout_ms": spec.init_timeout_ms,
                "log_path": str(log_dir / f"{instance_id}.log"),
            },
        )
        folder.write(folder.credentials, settings.redis.to_json())
        unprivileged = UNPRIVILEGED_UID if os.geteuid() == 0 else 0
        folder.write(
            folder.sandbox_config,
            {
                "isolation": settings.isolation,
                "interpreter": interpreter.executable,
                "interpreter_prefix": interpreter.prefix,
                "socket_path": str(folder.socket),
                "code_dir": str(code_dir),
                "tmp_dir": str(folder.tmp),
                "boto_dir": str(settings.boto_dir),
                "hide": [str(settings.data_dir), str(settings.run_dir)],
                "uid": unprivileged,
                "gid": unprivileged,
                "supervisor_pid": settings.supervisor_pid,
            },
        )

    def _compile_boto(self, interpreter: Interpreter) -> None:
        """Beside the first start for an interpreter, so that later ones import boto3 quickly."""
        if interpreter.executable not in self._compiled:
            self._compiled.add(interpreter.executable)
            loop = asyncio.get_running_loop()
            loop.run_in_executor(None, compile_for, interpreter.executable, self._settings.boto_dir)

    def _spawn_runtime(self, folder: InstanceFolder) -> subprocess.Popen[bytes]:
        command = [
            sys.executable, "-I", "-S", str(RUNTIME),
            "--settings", str(folder.settings), "--credentials", str(folder.credentials),
        ]  # fmt: skip
        environment = {"PATH": os.environ.get("PATH", os.defpath), "FOREBAY_PACKAGES": PACKAGES, **MALLOC_ENVIRONMENT}
        if self._settings.supervisor_pid:
            environment["FOREBAY_SUPERVISOR_PID"] = str(self._settings.supervisor_pid)
            environment["FOREBAY_INSTANCE_RECORD"] = str(folder.record)
        return _spawn(command, folder.runtime_errors, environment)

    def _spawn_sandbox(self, folder: InstanceFolder) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-I", "-S", str(SANDBOX), "--config", str(folder.sandbox_config)]
        return _spawn(command, folder.sandbox_errors, {})

    def _code_folder(self, code_sha256: str) -> Path:
        return self._settings.code_dir / code_sha256 / "task"

    def _forget_code(self, instance: _Instance) -> None:
        """Remove the unpacked code of an old revision, or a deleted function, once its last instance is gone."""
        if instance.code_sha256 not in self._code_in_use():
            shutil.rmtree(self._code_folder(instance.code_sha256).parent, ignore_errors=True)

    def _code_in_use(self) -> set[str]:
        running = {instance.code_sha256 for instance in self._instances.values()}
        return running | {spec.code_sha256 for spec in self._functions.values()}

    async def _bound_logs(self) -> None:
        while True:
            await asyncio.sleep(LOG_CHECK_S)
            await asyncio.to_thread(_turn_large_logs, self._settings.data_dir / "logs")


def _spawn(command: list[str], errors: Path, environment: dict[str, str]) -> subprocess.Popen[bytes]:
    """Start a program in a session of its own, so that a Ctrl-C at the terminal reaches only the supervisor."""
    with errors.open("ab") as stream:
        return subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=stream,
            start_new_session=True,
        )


def _end(instance: _Instance) -> None:
    for process in (instance.runtime, instance.sandbox):
        if process is not None:
            process.send(signal.SIGKILL)


def _remove_other_code(parent: Path, in_use: set[str]) -> None:
    for path in parent.iterdir() if parent.is_dir() else ():
        if path.name not in in_use:
            shutil.rmtree(path, ignore_errors=True)


def _drop_oldest(log_dir: Path, running: Collection[str]) -> None:
    """Keep the newest log files of a function; each instance writes its own, and one that runs goes on writing."""
    files = sorted(log_dir.glob("*.log"), key=lambda path: path.stat().st_mtime)
    for path in files[: max(0, len(files) - LOG_FILES_MAX + 1)]:
        if path.stem in running:
            continue
        path.unlink(missing_ok=True)
        path.with_suffix(".log.1").unlink(missing_ok=True)


def _turn_large_logs(parent: Path) -> None:
    """Move a log that is above its bound aside: runtimes append, so writing goes on at the new end."""
    for path in parent.glob("*/*.log"):
        if path.stat().st_size > LOG_FILE_MAX_BYTES:
            shutil.copyfile(path, path.with_suffix(".log.1"))
            os.truncate(path, 0)


def _ignore(instance_id: str, reason: str) -> None:
    """No one listens yet."""
