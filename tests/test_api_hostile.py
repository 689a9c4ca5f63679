"""Requests that somebody means badly: all are refused in good order, and the node has noticed nothing."""

import asyncio

import pytest
from test_peer_api import TOKEN, Node, serve
from test_peer_api import Client as Session

MEGABYTE = 2**20
LEAVE, BAN = "POST /api/v1/leave", "POST /api/v1/ban"
GOOD_BAN = '{"peer":"x"}'


def request(
    line: str, *headers: str, body: bytes | str = b"", token: str | None = TOKEN, host: str | None = "{own}"
) -> bytes:
    """An HTTP request. `{own}` and `{port}` are filled in later."""
    data = body.encode() if isinstance(body, str) else body
    lines = [f"{line} HTTP/1.1"]
    lines += [] if host is None else [f"Host: {host}"]
    lines += [] if token is None else [f"X-Talkoot-Token: {token}"]
    if not any(header.lower().startswith(("content-length", "transfer-encoding")) for header in headers):
        lines.append(f"Content-Length: {len(data)}")
    return "\r\n".join([*lines, *headers, "", ""]).encode() + data


REBINDING = [
    request("GET /api/v1/status", host=host)
    for host in (
        "evil.example",
        "evil.example:{port}",
        "127.0.0.1.evil.example:{port}",
        "localhost.:{port}",
        "127.0.0.1",
        "127.0.0.2:{port}",
        "0.0.0.0:{port}",
        "[::]:{port}",
        "2130706433:{port}",
        "",
        None,
    )
]
TWO_HOSTS = [
    request("GET /sd", "Host: evil.example"),
    request("GET http://evil.example/sd", host="evil.example"),
]
ORIGINS = [
    request(LEAVE, f"Origin: {origin}")
    for origin in ("null", "http://evil.example", "https://{own}", "http://127.0.0.1:1", "file://")
]
SITES = [
    request("GET /metrics", "Sec-Fetch-Site: cross-site", "Sec-Fetch-Mode: no-cors", "Sec-Fetch-Dest: image"),
    request("GET /peer/" + "3" * 52 + "/metrics", "Sec-Fetch-Site: same-site", "Sec-Fetch-Mode: no-cors"),
    request(LEAVE, "Sec-Fetch-Site: cross-site", "Sec-Fetch-Mode: navigate", "Sec-Fetch-Dest: document"),
]
TOKENS = [
    request(LEAVE, token=None),
    request(LEAVE, token=""),
    request(LEAVE, token=TOKEN + "x"),
    request(LEAVE, token=TOKEN.upper()),
    request(LEAVE, token="\u00e9" * 43),
    request(f"{LEAVE}?token={TOKEN}", token=None),
    request(LEAVE, f"Cookie: token={TOKEN}", f"Authorization: Bearer {TOKEN}", token=None),
    request("OPTIONS /api/v1/leave", "Access-Control-Request-Method: POST", token=None),
]
BODIES = [
    request(BAN, body=body)
    for body in (
        "",
        "{",
        "null",
        '["x"]',
        '{"peer":null}',
        '{"peer":"x","seconds":1e999}',
        '{"peer":"x","by":"operator"}',
        '{"peer":"\\ud800"}',
        b'{"peer":"\xff"}',
        "[" * 60_000,
    )
]
TOO_MUCH = [
    request(BAN, body=b"x" * 10 * MEGABYTE),
    request(BAN, "Content-Length: 1000000000000", body=GOOD_BAN),
    request("GET /", body=b"x" * MEGABYTE),
    request("GET /", "X-Much: " + "x" * 100_000),
    request("GET /" + "x" * 100_000),
    request(
        BAN,
        "Transfer-Encoding: chunked",
        body=b"10000\r\n" + b"x" * 0x10000 + b"\r\n8\r\nyyyyyyyy\r\n0\r\n\r\n",
    ),
]
CONFUSED = [
    request(BAN, "Content-Length: 12", "Transfer-Encoding: chunked", body="0\r\n\r\nGET / "),
    request(BAN, "Content-Length: 12", "Content-Length: 3", body=GOOD_BAN),
    request(BAN, "Content-Length: -1", body=GOOD_BAN),
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 not TLS here\r\n\r\n",
    b"GET / HTTP/9.9\r\n\r\n",
]
PATHS = [
    request(line)
    for line in (
        "TRACE /",
        "DELETE /sd",
        "POST /metrics",
        "GET /../../api.token",
        "GET /%2e%2e/identity.key",
        "GET /peer/../metrics/metrics",
        "GET /peer/" + "3" * 500 + "/metrics",
        "GET /peer/" + "1" * 20 + "/metrics",
        "GET /peer/%00/metrics",
        "GET /api/v1/rounds?last=99999999999999999999",
    )
]
KINDS = {
    "rebinding": REBINDING,
    "two-hosts": TWO_HOSTS,
    "origins": ORIGINS,
    "sites": SITES,
    "tokens": TOKENS,
    "bodies": BODIES,
    "too-much": TOO_MUCH,
    "confused": CONFUSED,
    "paths": PATHS,
}


async def status_of(data: bytes, port: int) -> int:
    """Send it and read the first line of the answer, while the rest may still be on its way."""
    own = f"127.0.0.1:{port}".encode()
    data = data.replace(b"{own}", own).replace(b"{port}", str(port).encode())
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(data)
        line = await reader.readline()
    finally:
        writer.transport.abort()
    version, status = line.split()[:2]
    assert version.startswith(b"HTTP/1.")
    return int(status)


def test_there_are_enough_of_them() -> None:
    assert sum(map(len, KINDS.values())) >= 40


@pytest.mark.parametrize("kind", KINDS)
def test_hostile_requests_are_refused(kind: str) -> None:
    node = Node()

    async def use(client: Session, port: int) -> None:
        answers = [(await status_of(data, port), data[:200]) for data in KINDS[kind]]
        assert [answer for answer in answers if not 400 <= answer[0] < 500] == []
        for path in ("/healthz", "/sd", "/api/v1/status"):
            async with client.get(path) as answer:
                assert answer.status == 200

    serve(node, use)
    assert node.left == 0
    assert node.orders == []


def test_a_link_may_be_followed_from_anywhere() -> None:
    async def use(client: Session, port: int) -> None:
        followed = ("Sec-Fetch-Site: cross-site", "Sec-Fetch-Mode: navigate", "Sec-Fetch-Dest: document")
        assert await status_of(request("GET /", *followed), port) == 200
        assert await status_of(request("GET /api/v1/status", "Sec-Fetch-Site: same-origin"), port) == 200

    serve(Node(), use)


def test_what_prometheus_reads() -> None:
    async def use(client: Session, port: int) -> None:
        async with client.get("/sd") as answer:
            assert (answer.status, answer.content_type) == (200, "application/json")
            assert await answer.json() == [{"targets": ["127.0.0.1:1"], "labels": {"instance": "p"}}]
        for letter, status in (("3", 200), ("1", 404), ("2", 503)):
            async with client.get(f"/peer/{letter * 20}/metrics") as answer:
                assert answer.status == status
        async with client.get("/peer/" + "3" * 20 + "/metrics") as answer:
            assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
            assert await answer.text() == "talkoot_round 3.0\n"

    serve(Node(), use)
