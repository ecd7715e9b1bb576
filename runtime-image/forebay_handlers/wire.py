"""The Unix socket between the runtime and the handlers' program: frames and their bodies.

A frame is a length (4 bytes, big-endian, of what follows), a type (1 byte) and a body. The runtime listens; the
handlers' program connects once as the supervisor, and each handler process once for itself. Standard library
only and Python 3.8 syntax: this file runs on the function's interpreter.

Supervisor connection:
  HELLO_SUPERVISOR  ->  body: JSON {"pid": int, "python": "3.13.1"} (values are claims, used in logs only)
  SETUP             <-  body: JSON {"mode": "python"|"bootstrap", "task_root", "handler", "env": {...},
                                    "inherited_env": [names of the container's own variables that go over env],
                                    "memory_mb" (0: its container bounds it), "boto_path": str}
  SPAWN             <-  body: SPAWN_BODY (slot, 16-byte token), then, for "bootstrap", the Runtime API's host:port
  KILL              <-  body: SLOT_BODY (slot): SIGKILL the handler process and everything it started
  EXITED            ->  body: EXITED_BODY (slot, wait status); always sent once per SPAWN, after the process ended
Handler connection (mode "python"):
  HELLO_HANDLER     ->  body: SPAWN_BODY (slot, token), with the read end of its log pipe as SCM_RIGHTS
                        (mode "bootstrap": sent by the supervisor's child just before it executes the program,
                        on a connection that it leaves open until it ends; there is nothing else on it but
                        an INIT_ERROR when there is no program that can be executed)
  INIT_DONE         ->  body: U32 init duration in microseconds
  INIT_ERROR        ->  body: U32 init duration in microseconds, then Lambda's error document (JSON)
  INVOKE            <-  body: INVOKE_BODY, then arn, client context, trace id, then the payload
  RESULT            ->  body: RESULT_BODY (token, kind, max RSS in KiB, microseconds in the
                        handler), then the payload or error document
"""

import struct

HELLO_SUPERVISOR = 1
SETUP = 2
SPAWN = 3
KILL = 4
EXITED = 5
HELLO_HANDLER = 6
INIT_DONE = 7
INIT_ERROR = 8
INVOKE = 9
RESULT = 10

HEADER = struct.Struct(">IB")
U32 = struct.Struct(">I")
SPAWN_BODY = struct.Struct(">H16s")
SLOT_BODY = struct.Struct(">H")
EXITED_BODY = struct.Struct(">Hi")
INVOKE_BODY = struct.Struct(">16s16sQHHH")
"""call token, invocation id, deadline (Unix ms), lengths of arn, client context and trace id."""
RESULT_BODY = struct.Struct(">16sBII")

RESULT_OK = 0
RESULT_ERROR = 1
"""The payload is Lambda's error document; the handler process goes on."""
RESULT_ERROR_EXIT = 2
"""The same, and the handler process ends after it (out of memory)."""

FRAME_MAX_BYTES = 8 * 1024 * 1024


def pack(kind: int, *parts: bytes) -> bytes:
    """A whole frame."""
    body = b"".join(parts)
    return HEADER.pack(len(body) + 1, kind) + body
