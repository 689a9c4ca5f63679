"""The local API answers this user's tools and nobody else; real requests over loopback."""

import asyncio
import json
import socket
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from talkoot.dht.errors import ConfigError
from talkoot.peer.admission import UnknownInviteError
from talkoot.peer.answering import MAX_LAST
from talkoot.peer.api import MAX_BODY_BYTES, ApiServer, BanOrder
from talkoot.peer.client import ApiClient, ApiError, NoDaemon
from talkoot.peer.guest.orders import PauseOrder
from talkoot.peer.metrics import Metrics
from talkoot.peer.observing.observer import NoAnswer, UnknownPeer
from talkoot.peer.sampling import Sample, SampleOrder
from talkoot.peer.statedir import StateDir

TOKEN = "t" * 43


class Node:
    """A NodeView that does as it is told."""

    def __init__(self) -> None:
        self.metrics = Metrics()
        self.now: dict[str, Any] = {"state": "training", "reason": "", "sync": None, "loss": 2.5}
        self.may_invite = True
        self.left = 0
        self.orders: list[BanOrder] = []
        self.asked: list[object] = []
        """What its user told it."""

    def status(self) -> dict[str, Any]:
        return self.now

    async def leaderboard(self) -> dict[str, Any]:
        return {"rounds": 3, "peers": [{"rank": 1}, {"rank": 2}]}

    def rounds(self, last: int = MAX_LAST) -> list[dict[str, Any]]:
        return [{"round": 0}, {"round": 1}][-last:]

    async def sample(self, order: SampleOrder) -> Sample:
        raise ValueError("there is no model yet")

    async def invite(self) -> str:
        if not self.may_invite:
            raise ValueError("only founders invite")
        return "talkoot://invite"

    def invites(self) -> list[dict[str, Any]]:
        return [{"token": "ab"}]

    async def revoke(self, name: str) -> list[dict[str, Any]]:
        if not self.may_invite:
            raise ValueError("only founders revoke")
        if name != "all":
            raise UnknownInviteError("no invite")
        return [{"token": "ab"}]

    def peers(self) -> list[dict[str, Any]]:
        return [{"peer_id": "p"}]

    def targets(self) -> list[dict[str, Any]]:
        return [{"targets": ["127.0.0.1:1"], "labels": {"instance": "p"}}]

    async def ping(self, peer_id: str) -> dict[str, Any]:
        raise ValueError("not here")

    async def sightings(self) -> list[dict[str, Any]]:
        raise ValueError("not here")

    async def peer_metrics(self, peer_id: str) -> bytes:
        if peer_id == "1" * 20:
            raise UnknownPeer
        if peer_id == "2" * 20:
            raise NoAnswer("this peer shares no metrics")
        return b"talkoot_round 3.0\n"

    async def ban(self, order: BanOrder) -> dict[str, Any]:
        if order.peer == "self":
            raise ValueError("that is this peer itself")
        self.orders.append(order)
        return {"peer_id": order.peer}

    async def unban(self, peer: str) -> bool:
        return peer == "banned"

    async def apply_settings(self) -> dict[str, list[str]]:
        raise ValueError("config.toml:3: not like this")

    async def pause(self, order: PauseOrder) -> dict[str, Any]:
        if order.seconds == 0:
            raise ValueError("too short")
        self.asked.append(order)
        return {"state": "paused", "reason": "user"}

    async def resume(self) -> dict[str, Any]:
        self.asked.append("resume")
        return {"state": "training", "reason": ""}

    async def finish(self) -> dict[str, Any]:
        self.asked.append("finish")
        return {"state": "training", "reason": "", "finishing": 8}

    async def leave(self) -> dict[str, Any]:
        self.left += 1
        return {"state": "draining", "reason": "user"}


Client = aiohttp.ClientSession


def serve(node: Node, use: Callable[[Client, int], Awaitable[None]]) -> None:
    """Run `use` against a server for `node` on a free port; paths are relative to it."""

    async def main() -> None:
        port: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        async with asyncio.timeout(60), asyncio.TaskGroup() as tasks:
            server = tasks.create_task(ApiServer(node, port=0, token=TOKEN).run(started=port.set_result))
            async with Client(f"http://127.0.0.1:{await port}") as client:
                await use(client, await port)
            server.cancel()

    asyncio.run(main())


async def ask(client: Client, method: str, path: str, **options: Any) -> tuple[int, Any]:
    async with client.request(method, path, **options) as answer:
        assert answer.headers["Cache-Control"] == "no-store"
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert "Access-Control-Allow-Origin" not in answer.headers
        if answer.content_type == "application/json":
            return answer.status, await answer.json()
        return answer.status, await answer.text()


def test_reading() -> None:
    node = Node()

    async def use(client: Client, port: int) -> None:
        assert await ask(client, "GET", "/api/v1/status") == (200, node.now)
        assert await ask(client, "GET", "/api/v1/rounds") == (200, {"rounds": [{"round": 0}, {"round": 1}]})
        assert await ask(client, "GET", "/api/v1/leaderboard?top=1") == (
            200,
            {"rounds": 3, "peers": [{"rank": 1}]},
        )
        assert (await ask(client, "GET", "/api/v1/leaderboard?top=none"))[0] == 400
        assert await ask(client, "GET", "/api/v1/rounds?last=1") == (200, {"rounds": [{"round": 1}]})
        for last in ("0", "-1", "x", "", "1" * 7):
            assert (await ask(client, "GET", f"/api/v1/rounds?last={last}"))[0] == 400
        status, text = await ask(client, "GET", "/metrics")
        assert status == 200
        assert "talkoot_inner_steps_total 0.0" in text
        assert (await ask(client, "HEAD", "/healthz"))[0] == 200

    serve(node, use)


def test_what_is_not_finite_or_plain_is_still_json() -> None:
    node = Node()
    node.now |= {"loss": float("nan"), "eval_loss": float("inf"), "state_dir": Path("/x"), "key": b"\0"}

    async def use(client: Client, port: int) -> None:
        _, status = await ask(client, "GET", "/api/v1/status")
        assert status["loss"] is None
        assert status["eval_loss"] is None
        assert status["state_dir"] == "/x"

    serve(node, use)


def test_health_and_readiness() -> None:
    node = Node()
    expected = {
        "starting": (200, 503),
        "syncing": (200, 503),
        "training": (200, 200),
        "exchanging": (200, 200),
        "paused": (200, 503),
        "draining": (200, 503),
        "failed": (503, 503),
    }

    async def use(client: Client, port: int) -> None:
        for state, statuses in expected.items():
            node.now = {"state": state, "reason": "user", "detail": "until 18:00", "sync": None}
            answers = [await ask(client, "GET", path) for path in ("/healthz", "/readyz")]
            assert tuple(status for status, _ in answers) == statuses, state
            assert answers[0][1] == {"state": state, "reason": "user", "detail": "until 18:00"}
        node.now = {"state": "training", "reason": "", "sync": {"done_bytes": 1}}
        assert (await ask(client, "GET", "/readyz"))[0] == 503

    serve(node, use)


def test_changes_need_the_token() -> None:
    node = Node()

    async def use(client: Client, port: int) -> None:
        for path in (
            *(f"/api/v1/{word}" for word in ("leave", "pause", "resume", "finish")),
            "/api/v1/invite",
        ):
            for headers in ({}, {"X-Talkoot-Token": ""}, {"X-Talkoot-Token": TOKEN[:-1]}, {"X-Token": TOKEN}):
                status, body = await ask(client, "POST", path, headers=headers)
                assert (status, body["error"]) == (401, "unauthorized")
            assert (await ask(client, "GET", path))[0] == 405
        assert node.left == 0
        assert node.asked == []
        token = {"X-Talkoot-Token": TOKEN}
        answer = await ask(client, "POST", "/api/v1/invite", headers=token)
        assert answer == (200, {"invite": "talkoot://invite"})
        leaving = {"state": "draining", "reason": "user"}
        assert await ask(client, "POST", "/api/v1/leave", headers=token) == (200, leaving)
        assert node.left == 1
        node.may_invite = False
        status, body = await ask(client, "POST", "/api/v1/invite", headers=token)
        assert (status, body) == (409, {"error": "conflict", "detail": "only founders invite"})

    serve(node, use)


@pytest.mark.parametrize(
    "host",
    ["evil.example", "127.0.0.1", "127.0.0.1:1", "localhost.evil.example:{port}", "0.0.0.0:{port}", ""],
)
def test_other_hosts_are_refused(host: str) -> None:
    async def use(client: Client, port: int) -> None:
        headers = {"Host": host.format(port=port), "X-Talkoot-Token": TOKEN}
        for method, path in (("GET", "/api/v1/status"), ("GET", "/"), ("POST", "/api/v1/leave")):
            status, body = await ask(client, method, path, headers=headers)
            assert (status, body["error"]) == (403, "forbidden")

    node = Node()
    serve(node, use)
    assert node.left == 0


def test_own_hosts_and_origins_are_served() -> None:
    async def use(client: Client, port: int) -> None:
        for host in (f"127.0.0.1:{port}", f"localhost:{port}", f"[::1]:{port}"):
            for headers in ({"Host": host}, {"Host": host, "Origin": f"http://{host}"}):
                assert (await ask(client, "GET", "/healthz", headers=headers))[0] == 200

    serve(Node(), use)


@pytest.mark.parametrize(
    "origin",
    [
        "null",
        "",
        "https://evil.example",
        "https://127.0.0.1:{port}",
        "http://127.0.0.1",
        "http://127.0.0.1:1",
    ],
)
def test_other_origins_are_refused(origin: str) -> None:
    async def use(client: Client, port: int) -> None:
        headers = {"Origin": origin.format(port=port), "X-Talkoot-Token": TOKEN}
        for method, path in (("GET", "/api/v1/status"), ("POST", "/api/v1/leave"), ("OPTIONS", "/")):
            assert (await ask(client, method, path, headers=headers))[0] == 403

    node = Node()
    serve(node, use)
    assert node.left == 0


def test_two_host_headers_are_no_way_round() -> None:
    async def use(client: Client, port: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /api/v1/status HTTP/1.1\r\nHost: evil.example\r\n")
        writer.write(b"Host: 127.0.0.1:%d\r\nConnection: close\r\n\r\n" % port)
        status = (await reader.readline()).split()[1]
        assert status in (b"400", b"403")
        writer.close()

    serve(Node(), use)


def test_bodies_are_bounded() -> None:
    async def chunks(total: int) -> Any:
        for _ in range(total // 4096):
            yield bytes(4096)

    async def use(client: Client, port: int) -> None:
        token = {"X-Talkoot-Token": TOKEN}
        path = "/api/v1/leave"
        assert (await ask(client, "POST", path, headers=token, data=bytes(MAX_BODY_BYTES)))[0] == 200
        for data in (bytes(MAX_BODY_BYTES + 1), chunks(MAX_BODY_BYTES + 4096)):
            status, body = await ask(client, "POST", path, headers=token, data=data)
            assert (status, body["error"]) == (413, "request_entity_too_large")
        assert (await ask(client, "GET", "/", data=bytes(MAX_BODY_BYTES + 1)))[0] == 413

    node = Node()
    serve(node, use)
    assert node.left == 1


def test_errors_are_json() -> None:
    async def use(client: Client, port: int) -> None:
        status, body = await ask(client, "GET", "/api/v1/nothing")
        assert (status, body["error"]) == (404, "not_found")
        status, body = await ask(client, "DELETE", "/api/v1/status", headers={"X-Talkoot-Token": TOKEN})
        assert (status, body["error"]) == (405, "method_not_allowed")

    serve(Node(), use)


def test_only_loopback_is_listened_on() -> None:
    async def use(client: Client, port: int) -> None:
        with socket.socket() as other:
            other.bind(("127.0.0.2", port))  # free, so the server is not on 0.0.0.0

    serve(Node(), use)


def test_a_port_in_use_is_the_operators() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        server = ApiServer(Node(), port=port, token=TOKEN)
        with pytest.raises(ConfigError, match=f":{port}: Address already in use; choose another --http-port"):
            asyncio.run(server.run(started=lambda _port: None))


def in_thread(node: Node, state: StateDir, use: Callable[[ApiClient], None]) -> None:
    """Run `use` in a thread, with the client of a daemon that announced itself in `state`."""

    async def main() -> None:
        port: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        async with asyncio.timeout(60), asyncio.TaskGroup() as tasks:
            server = ApiServer(node, port=0, token=TOKEN)
            task = tasks.create_task(server.run(started=port.set_result))
            state.announce_api(await port)
            state.token_file.write_text(TOKEN)
            await asyncio.to_thread(use, ApiClient.from_state_dir(state.path))
            task.cancel()

    asyncio.run(main())


@pytest.fixture
def state(tmp_path: Path) -> StateDir:
    state = StateDir(tmp_path / "peer")
    state.prepare()
    return state


def test_the_client_talks_to_the_daemon(state: StateDir, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    node = Node()

    def use(client: ApiClient) -> None:
        assert client.get("/api/v1/status") == node.now
        assert client.post("/api/v1/invite") == {"invite": "talkoot://invite"}
        node.may_invite = False
        with pytest.raises(ApiError, match="only founders invite") as refused:
            client.post("/api/v1/invite")
        assert (refused.value.status, refused.value.reason) == (409, "conflict")
        with pytest.raises(ApiError, match="Not Found"):
            client.get("/api/v1/nothing")
        with pytest.raises(ApiError, match="no JSON"):
            client.get("/metrics")

    in_thread(node, state, use)


def test_no_daemon_is_told_apart(state: StateDir, tmp_path: Path) -> None:
    with pytest.raises(NoDaemon):
        ApiClient.from_state_dir(tmp_path / "nowhere")
    with pytest.raises(NoDaemon):
        ApiClient.from_state_dir(state.path)
    for content in (b"", b"{}", b"[]", b'{"port": "x", "pid": 1}'):
        state.api_file.write_bytes(content)
        with pytest.raises(NoDaemon):
            ApiClient.from_state_dir(state.path)


def test_what_a_killed_daemon_left_is_no_daemon(state: StateDir) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    state.announce_api(port)
    client = ApiClient.from_state_dir(state.path)  # this process lives, but nobody listens
    with pytest.raises(NoDaemon):
        client.get("/healthz")
    state.api_file.write_text(json.dumps({"port": port, "pid": dead.pid}))
    with pytest.raises(NoDaemon):
        ApiClient.from_state_dir(state.path)


def test_a_daemon_that_hangs_is_not_waited_for() -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        client = ApiClient(silent.getsockname()[1])
        with pytest.raises(ApiError, match=r"within 0\.05 s"):
            client.get("/healthz", timeout_s=0.05)


@pytest.mark.parametrize("module", ["api", "client", "metrics", "logs", "statedir", "certlog", "watch"])
def test_nothing_heavy_is_imported(module: str) -> None:
    heavy = {"torch", "hivemind", "transformers"} | ({"aiohttp"} if module == "client" else set())
    code = f"import sys, talkoot.peer.{module}; print(sorted({heavy!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_bans() -> None:
    node = Node()

    async def use(client: Client, port: int) -> None:
        headers = {"X-Talkoot-Token": TOKEN}

        async def post(path: str, body: str) -> tuple[int, Any]:
            return await ask(client, "POST", path, data=body, headers=headers)

        assert await ask(client, "GET", "/api/v1/peers") == (200, {"peers": [{"peer_id": "p"}]})
        order = '{"peer":"x","reason":"loud","seconds":60}'
        assert (await ask(client, "POST", "/api/v1/ban", data=order))[0] == 401
        assert await post("/api/v1/ban", order) == (200, {"peer_id": "x"})
        assert await post("/api/v1/unban", '{"peer":"banned"}') == (200, {"lifted": True})
        assert await post("/api/v1/unban", '{"peer":"x"}') == (200, {"lifted": False})
        assert (await post("/api/v1/ban", '{"peer":"self"}'))[0] == 409
        wrong = ("", "[]", "{}", '{"peer":1}', '{"peer":"x","seconds":"1"}', '{"peer":"x","y":1}', "[" * 9999)
        for body in wrong:
            assert (await post("/api/v1/ban", body))[0] == 400

    serve(node, use)
    assert node.orders == [BanOrder("x", "loud", 60.0)]


def test_invites_are_listed_and_revoked_by_whoever_has_the_token() -> None:
    node = Node()

    async def use(client: Client, port: int) -> None:
        headers = {"X-Talkoot-Token": TOKEN}

        async def revoke(body: str) -> tuple[int, Any]:
            return await ask(client, "POST", "/api/v1/revoke", data=body, headers=headers)

        assert await ask(client, "GET", "/api/v1/invites") == (200, {"invites": [{"token": "ab"}]})
        assert (await ask(client, "POST", "/api/v1/revoke", data='{"invite":"all"}'))[0] == 401
        assert await revoke('{"invite":"all"}') == (200, {"revoked": [{"token": "ab"}]})
        for wrong in ('{"invite":"x"}', "[]", '{"invite":1}'):
            assert (await revoke(wrong))[0] == 400
        node.may_invite = False
        assert (await revoke('{"invite":"all"}'))[0] == 409

    serve(node, use)


def test_a_node_is_told_to_rest_and_to_go_on() -> None:
    node = Node()

    async def use(client: Client, port: int) -> None:
        headers = {"X-Talkoot-Token": TOKEN}

        async def post(path: str, body: str = "") -> tuple[int, Any]:
            return await ask(client, "POST", f"/api/v1/{path}", data=body, headers=headers)

        paused = {"state": "paused", "reason": "user"}
        for body in ("", "{}", '{"seconds":60}', '{"until":2e9}'):
            assert await post("pause", body) == (200, paused)
        assert (await post("pause", '{"seconds":0}'))[0] == 409
        assert await post("resume") == (200, {"state": "training", "reason": ""})
        assert (await post("finish"))[1]["finishing"] == 8
        for body in ("[]", '{"seconds":"1"}', '{"for":1}', '{"until":NaN}', '{"until":1e999}', "[" * 9999):
            assert (await post("pause", body))[0] == 400

    serve(node, use)
    orders = [PauseOrder(), PauseOrder(), PauseOrder(seconds=60.0), PauseOrder(until=2e9)]
    assert node.asked == [*orders, "resume", "finish"]
