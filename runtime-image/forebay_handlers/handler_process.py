"""A handler process: imports the user's code, then answers calls one by one until the runtime goes away.

Everything in the loop is bound before the user's code runs: a handler may replace `json.dumps`, clear
`os.environ` or close its streams, and the next call must still be answered. What it cannot survive (its socket
closed, a signal) ends the process, which the runtime turns into Lambda's words.
"""

import json
import os
import resource
import sys
import time
import traceback
from _thread import stack_size

from forebay_handlers import context, errors, function_logging, program, user_code
from forebay_handlers.connection import Connection
from forebay_handlers.wire import (
    HEADER,
    HELLO_HANDLER,
    INIT_DONE,
    INIT_ERROR,
    INVOKE_BODY,
    RESULT,
    RESULT_BODY,
    RESULT_ERROR,
    RESULT_ERROR_EXIT,
    RESULT_OK,
    SPAWN_BODY,
    U32,
    pack,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Dict, FrozenSet, List, NoReturn, TextIO, Tuple

    from forebay_handlers.supervisor import Child

    Handler = Callable[[Any, Any], Any]

MIB = 1_048_576
THREAD_STACK_BYTES = 2 * MIB
"""A thread's stack counts as memory as a whole; at the usual 8 MiB sixteen threads would fill 128 MB."""

_U32_MAX = 0xFFFF_FFFF
_TRACE = b"_X_AMZN_TRACE_ID"


def run(child: "Child", essential: "FrozenSet[str]") -> None:
    """Be a handler process; never returns. `essential`: modules that do not give way to the user's."""
    # Python's own way out would wait for the user's threads and run what they left to run at exit.
    leave, last_words = os._exit, traceback.print_exc
    status = 1
    try:
        started = time.monotonic()
        os.setsid()
        connection = Connection.to(child.socket_path)
        _give_log_pipe(connection, child)
        if child.setup["mode"] == "bootstrap":
            program.execute(connection, child)
        process = HandlerProcess(connection, child.setup)
        process.prepare(essential)
        if process.load(started):
            process.serve()
        status = 0
    except BaseException:  # noqa: BLE001 - the socket is closed, or the user's code broke what the loop stands on
        last_words()
    finally:
        leave(status)


class HandlerProcess:
    """Mode python: the user's module in this interpreter."""

    def __init__(self, connection: Connection, setup: "Dict[str, Any]") -> None:
        self._connection = connection
        self._setup = setup
        self._errors = errors.ErrorWriter(setup["task_root"])
        self._call = function_logging.CurrentCall()
        self._handler: "Handler"
        self._streams: "List[TextIO]" = []
        self._decode = json.JSONDecoder().decode
        self._encode = json.JSONEncoder(ensure_ascii=False, default=_encode_special).encode
        self._encode_ascii = json.JSONEncoder(ensure_ascii=True, default=_encode_special).encode
        self._environment = os.environ
        # What os.environ looks into. To set a variable through it is to call setenv, and the C library keeps every
        # value that was ever set: a hundred bytes a call, which a busy function would pay for with its memory limit.
        self._variables: "Dict[bytes, bytes]" = getattr(os.environ, "_data", {})
        self._exit: "Callable[[int], NoReturn]" = os._exit
        self._getpid = os.getpid
        self._clock = time.monotonic
        self._pid = os.getpid()
        self._usage = resource.getrusage

    def prepare(self, essential: "FrozenSet[str]") -> None:
        """Make the process what a function expects of Lambda: environment, folder, path, streams, logging, memory."""
        setup = self._setup
        environment = program.environment_of(setup)
        self._environment.clear()
        self._environment.update(environment)
        self._function = {name: environment.get(name) for name in context.FUNCTION_VARIABLES}
        time.tzset()
        os.chdir(setup["task_root"])
        standard = list(sys.path)
        sys.path[:] = user_code.search_path(
            setup["task_root"], environment.get("PYTHONPATH", ""), setup["boto_path"], standard
        )
        self._streams = [function_logging.open_streams(), sys.stderr]
        function_logging.set_up_logging(
            self._streams[0], self._call, environment.get("AWS_LAMBDA_LOG_LEVEL", "").upper()
        )
        user_code.look_like_a_script()
        user_code.forget(__name__.partition(".")[0])
        user_code.give_way(sys.path[: sys.path.index(standard[0])], essential)
        stack_size(THREAD_STACK_BYTES)
        if setup["memory_mb"]:
            limit = _data_bytes() + setup["memory_mb"] * MIB
            resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))

    def load(self, started: float) -> bool:
        """Import the handler and say how it went; False when it failed."""
        try:
            self._handler = user_code.load_handler(self._setup["handler"], self._errors)
            answer = None
        except MemoryError:
            answer = errors.out_of_memory("")
        except errors.FaultError as fault:
            answer = self._logged(self._errors.of_fault(fault, ""))
        except Exception as error:  # noqa: BLE001 - whatever the user's module raises
            answer = self._logged(self._errors.of_exception(error, ""))
        except BaseException as error:  # noqa: BLE001 - sys.exit and its like end the process
            self._end(error)
        self._flush()
        if self._getpid() != self._pid:
            self._exit(0)  # a child that the module forked, and that fell out of it
        duration = U32.pack(int((time.monotonic() - started) * 1_000_000))
        if answer is None:
            self._connection.send(pack(INIT_DONE, duration))
        else:
            self._connection.send(pack(INIT_ERROR, duration, answer))
        return answer is None

    def serve(self) -> None:
        """Answer calls in order until the runtime closes, one write for each."""
        connection, usage, header, body_struct = self._connection, self._usage, HEADER, RESULT_BODY
        call_struct, own, getpid, clock = INVOKE_BODY, self._pid, self._getpid, self._clock
        while True:
            frame = connection.next_frame()
            if frame is None:
                return
            body = frame[1]
            token, call_id, deadline_ms, arn_size, client_size, trace_size = call_struct.unpack_from(body)
            client_at = call_struct.size + arn_size
            trace_at = client_at + client_size
            payload_at = trace_at + trace_size
            began = clock()
            kind, answer = self._answer(
                _uuid(call_id),
                body[call_struct.size : client_at].decode(),
                deadline_ms,
                body[client_at:trace_at],
                body[trace_at:payload_at],
                body[payload_at:],
            )
            handler_us = min(int((clock() - began) * 1e6), _U32_MAX)
            self._flush()
            if getpid() != own:
                # A child that the handler forked came back from it too: the answer is its parent's.
                self._exit(0)
            memory_kib = usage(0).ru_maxrss
            head = header.pack(1 + body_struct.size + len(answer), RESULT)
            connection.send(head + body_struct.pack(token, kind, memory_kib, handler_us) + answer)
            if kind == RESULT_ERROR_EXIT:
                return

    def _answer(
        self, request_id: str, arn: str, deadline_ms: int, client: bytes, trace_id: bytes, payload: bytes
    ) -> "Tuple[int, bytes]":
        self._call.request_id = request_id
        if trace_id:
            self._variables[_TRACE] = trace_id
        else:
            self._variables.pop(_TRACE, None)
        try:
            client_context = context.parse_client_context(client) if client else None
            event = self._event(payload)
            result = self._handler(
                event, context.LambdaContext(self._function, request_id, arn, deadline_ms, client_context)
            )
            return self._result(result)
        except MemoryError:
            return RESULT_ERROR_EXIT, errors.out_of_memory(request_id)
        except errors.FaultError as fault:
            document = self._errors.of_fault(fault, request_id)
        except Exception as error:  # noqa: BLE001 - whatever the user's handler raises
            document = self._errors.of_exception(error, request_id)
        except BaseException as error:  # noqa: BLE001 - sys.exit and its like end the process
            self._end(error)
        return RESULT_ERROR, self._logged(document)

    def _event(self, payload: bytes) -> "Any":
        try:
            return self._decode(payload.decode("utf-8", "surrogatepass"))
        except (ValueError, RecursionError) as error:
            raise errors.FaultError(
                "Runtime.UnmarshalError", f"Unable to unmarshal input: {errors.text_of(error)}"
            ) from None

    def _result(self, result: "Any") -> "Tuple[int, bytes]":
        try:
            try:
                data = self._encode(result).encode()
            except UnicodeEncodeError:
                data = self._encode_ascii(result).encode()  # a lone surrogate has no UTF-8, but an escape
        except MemoryError:
            raise
        except Exception as error:  # noqa: BLE001 - the user's own classes take part in it
            raise errors.FaultError(
                "Runtime.MarshalError", f"Unable to marshal response: {errors.text_of(error)}"
            ) from None
        if len(data) > errors.RESPONSE_MAX_BYTES:
            return RESULT_ERROR, errors.too_large(self._encode)
        return RESULT_OK, data

    def _logged(self, document: "errors.Document") -> bytes:
        """Write an error to the function's log as Lambda does, and give it as JSON."""
        self._write(errors.log_lines(document))
        return self._errors.encode(document)

    def _end(self, error: BaseException) -> "NoReturn":
        """End the process for an exception that is no Exception: sys.exit, KeyboardInterrupt, CancelledError."""
        if isinstance(error, SystemExit):
            status = errors.exit_status(error)
        else:
            self._write("".join(traceback.format_exception(type(error), error, error.__traceback__)))
            status = 1
        self._flush()
        self._exit(status)

    def _write(self, text: str) -> None:
        try:
            self._streams[0].write(text)
        except (OSError, ValueError):
            return  # the user closed the log: nowhere left to say it

    def _flush(self) -> None:
        """Write out what was printed, also by streams that the user put in place of ours."""
        for stream in (sys.stdout, sys.stderr, *self._streams):
            try:
                stream.flush()
            except Exception:  # noqa: BLE001, S112 - closed, None or broken by the user: no log, but an answer
                continue


def _give_log_pipe(connection: Connection, child: "Child") -> None:
    """Say hello, hand the log pipe's read end over, and put the other end in place of stdout and stderr."""
    read_end, write_end = os.pipe()
    connection.send_with_descriptor(HELLO_HANDLER, SPAWN_BODY.pack(child.slot, child.token), read_end)
    os.close(read_end)
    os.dup2(write_end, 1)
    os.dup2(write_end, 2)
    os.close(write_end)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)


def _uuid(data: bytes) -> str:
    digits = data.hex()
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


def _encode_special(value: "Any") -> "Any":
    """Decimals as numbers, as Lambda does; everything else is refused in json's own words."""
    decimal = sys.modules.get("decimal")
    if decimal is not None and isinstance(value, decimal.Decimal):
        return int(value) if value.is_finite() and value.as_tuple().exponent == 0 else float(value)
    raise TypeError(f"Object of type {type(value).__name__} is not JSON serializable")


def _data_bytes() -> int:
    """What this process already has of the kind of memory that RLIMIT_DATA counts."""
    with open("/proc/self/status", "rb") as file:
        for line in file:
            if line.startswith(b"VmData:"):
                return int(line.split()[1]) * 1024
    raise OSError("/proc/self/status has no VmData")
