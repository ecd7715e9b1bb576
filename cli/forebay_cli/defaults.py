"""Where a Forebay on one machine is, unless told otherwise. Imports nothing: every command reads it."""

HOST = "127.0.0.1"
PORT = 8480
ENDPOINT = f"http://{HOST}:{PORT}"
ENDPOINT_VARIABLE = "FOREBAY_ENDPOINT"
API_KEY_VARIABLE = "FOREBAY_API_KEY"
NAMESPACE_VARIABLE = "FOREBAY_NAMESPACE"
DURABILITY = "process"
ASYNC_RETRY_DELAYS = "60,120"
"""Seconds before each retry of a failed async event: Lambda's."""
