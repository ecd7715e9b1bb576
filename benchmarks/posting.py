"""An exact number of POSTs, which wrk cannot do: to fill a queue, not to measure."""

import http.client
from concurrent.futures import ThreadPoolExecutor

CONNECTIONS = 8
_ACCEPTED = 202


def post(port: int, path: str, count: int, *headers: str) -> list[str]:
    """Send `count` requests with more headers, "NAME: VALUE"; gives their ids.

    Raises RuntimeError when one is not accepted.
    """
    more = {"Authorization": "benchmark", **dict(header.split(": ") for header in headers)}

    def send(share: int) -> list[str]:
        ids = []
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        for _ in range(share):
            connection.request("POST", path, b"{}", more)
            answer = connection.getresponse()
            answer.read()
            if answer.status != _ACCEPTED:
                raise RuntimeError(f"an event was answered {answer.status}")
            ids.append(answer.headers["X-Amzn-RequestId"])
        connection.close()
        return ids

    with ThreadPoolExecutor(CONNECTIONS) as pool:
        shares = [count // CONNECTIONS + (index < count % CONNECTIONS) for index in range(CONNECTIONS)]
        sent = [pool.submit(send, share) for share in shares]
        return [found for result in sent for found in result.result()]
