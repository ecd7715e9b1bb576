import time


def handler(event, context):
    """Takes 100 ms, as a call to a database or another service might."""
    time.sleep(0.1)
    return {"slept_ms": 100}
