"""What the container-image tests call."""

import os
import socket
import time
from pathlib import Path
from typing import Any


def handler(event: dict[str, Any], context: Any) -> dict[str, Any]:
    """Answer with where it runs, or do what the event asks for."""
    if "sleep_s" in event:
        time.sleep(event["sleep_s"])
    if "exit" in event:
        os._exit(event["exit"])
    return {
        "event": event,
        "request_id": context.aws_request_id,
        "remaining_ms": context.get_remaining_time_in_millis(),
        "host": socket.gethostname(),
        "user": os.getuid(),
        "folder": str(Path.cwd()),
        "runtime_api": os.environ["AWS_LAMBDA_RUNTIME_API"],
        "environment": sorted(os.environ),
    }


def other(_event: Any, _context: Any) -> str:
    """Show that CMD was replaced by the Function's args."""
    return "other"
