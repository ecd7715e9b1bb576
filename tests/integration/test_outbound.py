"""The platform's own HTTP client against servers that want to be reached, or to hurt."""

import asyncio
import contextlib
import gzip
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from forebay_controller.outbound import Outbound, OutboundError
from forebay_controller.outbound_rules import ON_ONE_MACHINE, OutboundRefusedError, OutboundRules
from support.certificates import Certificates
from support.controller_rig import until

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
MAX_BYTES = 100_000


class Web:
    """A server on loopback, where names of the test lead: what it answers by path, and who connected."""

    def __init__(self) -> None:
        self.answers: dict[str, bytes | Serve] = {}
        self.heads: list[str] = []
        self.asked: list[str] = []
        self.names: dict[str, list[list[str]]] = {}
        self.port = 0
        self.handled = asyncio.Semaphore(0)

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            self.heads.append(head)
            answer = self.answers.get(head.split()[1], _response(b"", "404 Not Found"))
            if callable(answer):
                await answer(reader, writer)
            else:
                writer.write(answer)
                await writer.drain()
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()
        self.handled.release()

    async def finish(self) -> None:
        """Wait until every connection that sent a request is closed."""
        async with asyncio.timeout(10):
            for _ in self.heads:
                await self.handled.acquire()

    async def resolve(self, host: str, _port: int) -> list[str]:
        """One answer after the other for a name, the last one for ever; anything else is itself."""
        self.asked.append(host)
        answers = self.names.get(host, [[host]])
        return answers.pop(0) if len(answers) > 1 else answers[0]

    def client(self, *allowed: str, allow_http: bool = True, total_s: float = 5.0) -> Outbound:
        rules = OutboundRules.of(allow_http=allow_http, allowed=allowed)
        return Outbound(rules, resolve=self.resolve, total_s=total_s, post_total_s=total_s)

    def url(self, host: str, path: str) -> str:
        return f"http://{host}:{self.port}{path}"


def _response(body: bytes, status: str = "200 OK", **headers: str) -> bytes:
    named = {"Content-Length": str(len(body)), **{name.replace("_", "-"): value for name, value in headers.items()}}
    lines = "".join(f"{name}: {value}\r\n" for name, value in named.items())
    return f"HTTP/1.1 {status}\r\n{lines}\r\n".encode() + body


def redirect(to: str) -> bytes:
    return _response(b"", "302 Found", Location=to)


@pytest.fixture
async def web() -> AsyncIterator[Web]:
    made = Web()
    server = await asyncio.start_server(made.handle, "127.0.0.1", 0)
    made.port = server.sockets[0].getsockname()[1]
    made.names["files.test"] = [["127.0.0.1"]]
    yield made
    await made.finish()
    server.close()
    await server.wait_closed()


async def test_it_fetches_with_the_hosts_own_name(web: Web) -> None:
    web.answers["/x?sig=1"] = _response(b"content")
    assert await web.client("files.test").fetch(web.url("files.test", "/x?sig=1"), max_bytes=MAX_BYTES) == b"content"
    assert f"host: files.test:{web.port}" in web.heads[0].lower()
    assert "cookie" not in web.heads[0].lower()


async def test_a_name_is_asked_for_once_so_that_a_second_answer_changes_nothing(web: Web) -> None:
    web.names["rebind.test"] = [["127.0.0.2"], ["127.0.0.1"]]
    with pytest.raises(OutboundError):
        await web.client("127.0.0.2").fetch(web.url("rebind.test", "/x"), max_bytes=MAX_BYTES)
    assert web.heads == [], "it would have been served by the address of the second answer"
    assert web.asked == ["rebind.test"]


async def test_a_name_that_leads_inside_is_not_connected_to(web: Web) -> None:
    web.names["evil.test"] = [["127.0.0.1"]]
    with pytest.raises(OutboundRefusedError, match="loopback"):
        await web.client().fetch(web.url("evil.test", "/x"), max_bytes=MAX_BYTES)
    web.names["evil.test"] = [["93.184.216.34", "10.0.0.1"]]
    with pytest.raises(OutboundRefusedError, match="private"):
        await web.client().fetch(web.url("evil.test", "/x"), max_bytes=MAX_BYTES)
    assert web.heads == []


async def test_an_address_that_became_a_nodes_is_not_connected_to(web: Web) -> None:
    own: list[str] = []
    rules = OutboundRules.of(allow_http=True, allowed=[])
    client = Outbound(rules, own_addresses=lambda: own, resolve=web.resolve, total_s=0.3)
    web.names["node.test"] = [["93.184.216.34"]]
    own.append("93.184.216.34")
    with pytest.raises(OutboundRefusedError, match="of the cluster"):
        await client.fetch("http://node.test/x", max_bytes=MAX_BYTES)


@pytest.mark.parametrize(
    "target",
    [
        "http://169.254.169.254/latest/meta-data/",
        "http://127.0.0.1:{port}/secret",
        "http://127.0.0.3:{port}/secret",
        "http://[::1]:{port}/secret",
        "http://[::ffff:127.0.0.1]:{port}/secret",
        "http://[::ffff:7f00:1]:{port}/secret",
        "http://[::]:{port}/secret",
        "http://0.0.0.0:{port}/secret",
        "http://2130706433:{port}/secret",
        "http://017700000001:{port}/secret",
        "http://0177.0.0.1:{port}/secret",
        "http://0x7f000001:{port}/secret",
        "http://127.1:{port}/secret",
        "http://localhost:{port}/secret",
        "//localhost:{port}/secret",
        "http://files.test@localhost:{port}/secret",
        "http://localhost:{port}\\@files.test/secret",
        "http://\u2460\u2461\u2466.0.0.1:{port}/secret",
        "file:///etc/passwd",
        "gopher://localhost:{port}/secret",
    ],
)
async def test_a_redirect_leads_nowhere_that_a_url_may_not(web: Web, target: str) -> None:
    web.names["localhost"] = [["127.0.0.1"]]
    web.answers["/start"] = redirect(target.format(port=web.port))
    web.answers["/secret"] = _response(b"the secret")
    with pytest.raises((OutboundRefusedError, OutboundError)) as caught:
        await web.client("files.test").fetch(web.url("files.test", "/start"), max_bytes=MAX_BYTES)
    assert len(web.heads) == 1
    assert "the secret" not in str(caught.value)


async def test_redirects_are_followed_and_counted(web: Web) -> None:
    for number in range(7):
        web.answers[f"/{number}"] = redirect(f"/{number + 1}")
    web.answers["/5"] = _response(b"there")
    client = web.client("files.test")
    assert await client.fetch(web.url("files.test", "/0"), max_bytes=MAX_BYTES) == b"there"
    web.answers["/5"] = redirect("/6")
    with pytest.raises(OutboundRefusedError, match="more than 5 redirects"):
        await client.fetch(web.url("files.test", "/0"), max_bytes=MAX_BYTES)


async def test_each_redirects_name_is_checked_anew(web: Web) -> None:
    web.names["rebind.test"] = [["127.0.0.1"], ["10.0.0.1"]]
    web.answers["/x"] = redirect(web.url("rebind.test", "/y"))
    with pytest.raises(OutboundRefusedError, match="private"):
        await web.client("127.0.0.1").fetch(web.url("rebind.test", "/x"), max_bytes=MAX_BYTES)


async def test_http_is_refused_where_https_is_required(web: Web) -> None:
    with pytest.raises(OutboundRefusedError, match="not https"):
        await web.client("files.test", allow_http=False).fetch(web.url("files.test", "/x"), max_bytes=MAX_BYTES)
    assert web.asked == []


async def test_the_certificate_must_be_the_names_own_and_trusted(web: Web, tmp_path: Path) -> None:
    certificates = Certificates(tmp_path)
    server = await asyncio.start_server(web.handle, "127.0.0.1", 0, ssl=certificates.server_context())
    port = server.sockets[0].getsockname()[1]
    web.answers["/x"] = _response(b"content")
    web.names["localhost"] = web.names["other.test"] = [["127.0.0.1"]]
    rules = OutboundRules.of(allow_http=False, allowed=["127.0.0.1"])
    trusting = Outbound(rules, resolve=web.resolve, tls=ssl.create_default_context(cafile=certificates.ca))
    assert await trusting.fetch(f"https://localhost:{port}/x", max_bytes=MAX_BYTES) == b"content"
    with pytest.raises(OutboundError, match="certificate is not trusted"):
        await trusting.fetch(f"https://other.test:{port}/x", max_bytes=MAX_BYTES)
    with pytest.raises(OutboundError, match="certificate is not trusted"):
        await Outbound(rules, resolve=web.resolve).fetch(f"https://localhost:{port}/x", max_bytes=MAX_BYTES)
    server.close()
    await server.wait_closed()


async def test_a_body_that_is_said_to_be_too_large_is_not_read(web: Web) -> None:
    web.answers["/x"] = _response(b"", Content_Length=str(MAX_BYTES + 1))
    with pytest.raises(OutboundRefusedError, match="100001 bytes"):
        await web.client("files.test").fetch(web.url("files.test", "/x"), max_bytes=MAX_BYTES)


async def test_a_body_without_end_is_cut_off(web: Web) -> None:
    async def endless(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")
        for _ in range(10_000):
            writer.write(b"x" * 65_536)
            await writer.drain()

    web.answers["/x"] = endless
    with pytest.raises(OutboundRefusedError, match="more than the 100000 bytes"):
        await web.client("files.test").fetch(web.url("files.test", "/x"), max_bytes=MAX_BYTES)


async def test_a_body_that_trickles_is_given_up(web: Web) -> None:
    async def trickle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
        left = asyncio.create_task(reader.read())
        while not left.done():
            writer.write(b"x")
            await asyncio.wait({left}, timeout=0.05)

    web.answers["/x"] = trickle
    with pytest.raises(OutboundError, match=r"did not send everything within 0\.5 s"):
        await web.client("files.test", total_s=0.5).fetch(web.url("files.test", "/x"), max_bytes=MAX_BYTES)


async def test_a_server_that_never_answers_is_given_up(web: Web) -> None:
    async def silent(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        await reader.read()

    web.answers["/x"] = silent
    with pytest.raises(OutboundError, match=r"within 0\.3 s"):
        await web.client("files.test", total_s=0.3).fetch(web.url("files.test", "/x"), max_bytes=MAX_BYTES)


async def test_compressed_bodies_are_neither_unpacked_nor_taken(web: Web) -> None:
    bomb = gzip.compress(b"\0" * 50_000_000)
    web.answers["/x"] = _response(bomb, Content_Encoding="gzip")
    with pytest.raises(OutboundRefusedError, match="compresses"):
        await web.client("files.test").fetch(web.url("files.test", "/x"), max_bytes=MAX_BYTES)
    assert "accept-encoding: identity" in web.heads[0].lower()


async def test_an_error_repeats_nothing_of_what_was_read(web: Web) -> None:
    web.answers["/x?signature=abc"] = _response(b"internal details", "500 internal words")
    with pytest.raises(OutboundError) as caught:
        await web.client("files.test").fetch(web.url("files.test", "/x?signature=abc"), max_bytes=MAX_BYTES)
    text = f"{caught.value}"
    assert text == "files.test answered 500"
    web.answers["/x?signature=abc"] = b"SSH-2.0-secret banner\r\n"
    with pytest.raises(OutboundError) as caught:
        await web.client("files.test").fetch(web.url("files.test", "/x?signature=abc"), max_bytes=MAX_BYTES)
    assert "banner" not in str(caught.value)
    assert "abc" not in str(caught.value)


async def test_no_proxy_of_the_environment_is_used(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    web.answers["/x"] = _response(b"direct")
    assert await web.client("files.test").fetch(web.url("files.test", "/x"), max_bytes=MAX_BYTES) == b"direct"


async def test_a_name_that_does_not_exist_is_told(web: Web) -> None:
    async def unknown(_host: str, _port: int) -> list[str]:
        raise OSError("no such name")

    client = Outbound(OutboundRules.of(allow_http=True, allowed=[]), resolve=unknown)
    with pytest.raises(OutboundError, match=r"the name nowhere\.test cannot be resolved"):
        await client.fetch("http://nowhere.test/x", max_bytes=MAX_BYTES)


async def test_a_post_sends_body_and_headers_and_reads_nothing_of_the_answers_body(web: Web) -> None:
    received: list[bytes] = []

    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        received.append(await reader.readexactly(4))
        writer.write(b"HTTP/1.1 202 Accepted\r\nContent-Length: 1000000\r\n\r\n")
        await reader.read()  # until the client leaves: it does not wait for the million bytes

    web.answers["/hook"] = take
    await web.client("files.test").post(web.url("files.test", "/hook"), b"body", {"ce-id": "1"})
    assert received == [b"body"]
    head = web.heads[0].lower()
    assert head.startswith("post /hook ")
    assert "ce-id: 1" in head
    assert "content-length: 4" in head


@pytest.mark.parametrize("status", ["301 Moved", "302 Found", "307 Temporary Redirect", "308 Permanent Redirect"])
async def test_a_post_is_never_redirected(web: Web, status: str) -> None:
    web.answers["/hook"] = _response(b"", status, Location=web.url("files.test", "/secret"))
    web.answers["/secret"] = _response(b"")
    with pytest.raises(OutboundError, match="redirects are not followed"):
        await web.client("files.test").post(web.url("files.test", "/hook"), b"", {})
    assert len(web.heads) == 1


@pytest.mark.parametrize("status", ["100 Continue", "400 Bad Request", "404 Not Found", "500 no", "503 later"])
async def test_a_post_is_done_with_a_2xx_and_nothing_else(web: Web, status: str) -> None:
    web.answers["/hook"] = _response(b"inner details", status)
    with pytest.raises(OutboundError) as caught:
        await web.client("files.test", total_s=0.5).post(web.url("files.test", "/hook?token=abc"), b"", {})
    assert "details" not in str(caught.value)
    assert "abc" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "address"),
    [("loopback.test", "127.0.0.1"), ("metadata.test", "169.254.169.254"), ("inside.test", "10.0.0.1")],
)
async def test_a_post_goes_to_no_address_that_is_not_public(web: Web, name: str, address: str) -> None:
    web.names[name] = [[address]]
    web.answers["/hook"] = _response(b"")
    with pytest.raises(OutboundRefusedError, match=address):
        await web.client().post(web.url(name, "/hook"), b"", {})
    with pytest.raises(OutboundRefusedError, match="not https"):
        await web.client(allow_http=False).post(web.url(name, "/hook"), b"", {})
    assert web.heads == []


async def test_a_post_that_is_not_answered_is_given_up(web: Web) -> None:
    async def silent(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        await reader.read()

    web.answers["/hook"] = silent
    with pytest.raises(OutboundError, match=r"did not answer within 0\.3 s"):
        await web.client("files.test", total_s=0.3).post(web.url("files.test", "/hook"), b"", {})


async def test_posts_that_hang_hold_up_no_fetch(web: Web) -> None:
    async def silent(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        await reader.read()

    web.answers["/hook"] = silent
    web.answers["/x"] = _response(b"content")
    client = web.client("files.test")
    posts = [asyncio.create_task(client.post(web.url("files.test", "/hook"), b"", {})) for _ in range(20)]
    await until(lambda: len(web.heads) == len(posts), "all are sent")
    assert await client.fetch(web.url("files.test", "/x"), max_bytes=MAX_BYTES) == b"content"
    for post in posts:
        post.cancel()
    await asyncio.wait(posts)


async def test_a_refusal_names_what_allows_more_where_it_runs() -> None:
    client = Outbound(OutboundRules(names=ON_ONE_MACHINE))
    with pytest.raises(OutboundRefusedError, match="up --outbound-allow-http"):
        await client.post("http://127.0.0.1/", b"", {})
    with pytest.raises(OutboundRefusedError, match="up --outbound-allow`"):
        await client.post("https://127.0.0.1/", b"", {})
