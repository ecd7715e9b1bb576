"""An exact number of POSTs, which wrk cannot do: to fill a queue, not to measure."""

import http.client
from concurrent.futures import ThreadPoolExecutor

CONNECTIONS = 8
_ACCEPTED = 202


def post(port: int, path: str, header: str, count: int) -> None:
    """Send `count` requests with one more header. Raises RuntimeError when one is not accepted."""
    name, value = header.split(": ")

    def send(share: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        for _ in range(share):
            connection.request("POST", path, b"{}", {"Authorization": "benchmark", name: value})
            answer = connection.getresponse()
            answer.read()
            if answer.status != _ACCEPTED:
                raise RuntimeError(f"an event was answered {answer.status}")
        connection.close()

    with ThreadPoolExecutor(CONNECTIONS) as pool:
        shares = [count // CONNECTIONS + (index < count % CONNECTIONS) for index in range(CONNECTIONS)]
        for result in [pool.submit(send, share) for share in shares]:
            result.result()
