#!/usr/bin/env python3
"""Make a function, call it and remove it, as an AWS client does: what `helm test` runs in the cluster."""

import io
import json
import os
import sys
import uuid
import zipfile

import boto3
from botocore.config import Config

ROLE = "arn:aws:iam::000000000000:role/none"  # the API wants one; nothing uses it
SOURCE = "def handler(event, context):\n    return {'doubled': event['number'] * 2}\n"
NUMBER = 21


def package() -> bytes:
    """The function's code as a zip."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("app.py", SOURCE)
    return buffer.getvalue()


def main() -> int:
    """Return the exit status: 0 when the function answered what it should."""
    client = boto3.client("lambda", config=Config(retries={"total_max_attempts": 2}, read_timeout=60))
    name = f"helm-test-{uuid.uuid4().hex[:8]}"
    client.create_function(
        FunctionName=name,
        Runtime=os.environ["FUNCTION_RUNTIME"],
        Role=ROLE,
        Handler="app.handler",
        Code={"ZipFile": package()},
    )
    try:
        client.get_waiter("function_active_v2").wait(FunctionName=name, WaiterConfig={"Delay": 1, "MaxAttempts": 60})
        answer = client.invoke(FunctionName=name, Payload=json.dumps({"number": NUMBER}))
        payload = answer["Payload"].read().decode()
    finally:
        client.delete_function(FunctionName=name)
    sys.stdout.write(f"{name} answered {payload}\n")
    return int("FunctionError" in answer or json.loads(payload) != {"doubled": NUMBER * 2})


if __name__ == "__main__":
    sys.exit(main())
