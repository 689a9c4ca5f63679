"""What an explorer makes of what it sees: figures that no single liar moves, and HTTP that only reads."""

import asyncio
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import aiohttp
import msgspec
import pytest
from dht_rig import SWARM
from exploring_rig import NobodyAnswers, Source, followed, reading
from prometheus_client.parser import text_string_to_metric_families

from talkoot.cli.explore_frame import screen, snapshot
from talkoot.dht.errors import ConfigError, RemoteError
from talkoot.dht.identity import peer_id_of
from talkoot.dht.multiaddr import parse_address
from talkoot.dht.outside.reading import NOTHING
from talkoot.dht.outside.visits import AGAIN_S, FAILED_S, SAME_PLACE_S, Visit, Visits, is_public
from talkoot.peer.exploring import title
from talkoot.peer.exploring.rounds import RoundsSeen
from talkoot.peer.exploring.server import ExplorerServer
from talkoot.peer.exploring.summary import rows, summary
from talkoot.peer.exploring.view import MAX_ROWS, Explored, picture
from talkoot.peer.metrics import FAMILIES
from talkoot.peer.metrics.explored import EXPLORED
from talkoot.peer.transfer import Answer, AskManifest, state_protocol


def test_a_swarm_in_figures() -> None:
    relay = followed(9, role="relay", round=0, state="relaying")
    seen = summary(reading(followed(1), followed(2), followed(3, state="paused"), relay))
    assert (seen.announced, seen.reached, seen.relays, seen.training) == (3, 3, 1, 2)
    assert (seen.frontier, seen.at_frontier, seen.agreeing) == (7, 3, 3)
    assert seen.steps_per_second == 5.0
    assert seen.loss == pytest.approx(2.265)
    assert seen.by_role == {"full": 3, "relay": 1}
    assert seen.by_path == {"direct": 3}
    assert seen.clock_offset_s == pytest.approx(0.1)
    assert summary(NOTHING).frontier is None
    assert summary(reading(followed(1))).frontier == 7  # alone


def test_one_liar_moves_neither_frontier_nor_loss() -> None:
    honest = [followed(number) for number in range(1, 6)]
    liar = followed(6, round=2**53, loss=1e30, digest=b"\xff" * 32)
    seen = summary(reading(*honest, liar))
    assert seen.frontier == 7
    assert seen.agreeing == 5
    assert seen.loss is not None
    assert seen.loss < 3


def test_peers_that_do_not_exist_count_for_nothing_but_their_number() -> None:
    honest = [followed(number) for number in range(1, 4)]
    made_up = [followed(number, "unreachable", round=2**50, speed=1e14) for number in range(100, 1100)]
    seen = summary(reading(*honest, *made_up))
    assert (seen.announced, seen.reached) == (1003, 3)
    assert (seen.frontier, seen.steps_per_second) == (7, 7.5)
    assert [row["path"] for row in rows(reading(*made_up, *honest))[:4]] == ["direct"] * 3 + ["unreachable"]


def test_those_who_disagree_at_the_frontier_are_seen() -> None:
    seen = summary(reading(*[followed(number) for number in range(3)], followed(7, digest=b"\1" * 32)))
    assert (seen.at_frontier, seen.agreeing) == (4, 3)


def test_rounds_are_noted_when_the_frontier_moves() -> None:
    seen = RoundsSeen()
    at = summary(reading(followed(1), followed(2)))
    for number, now_s in ((7, 1.0), (7, 2.0), (8, 10.0), (7, 11.0), (9, 30.0), (None, 31.0), (9, 32.0)):
        seen.take(replace(at, frontier=number), now_s)
    assert [(each["round"], each["seconds"]) for each in seen.last(5)] == [(7, None), (8, 20.0)]


def test_who_is_visited_next() -> None:
    visits = Visits(public=False)
    known, dead, fresh = b"a", b"b", b"c"
    visits.note(known, Visit("direct", 0.0))
    visits.note(dead, Visit("unreachable", 0.0))
    everybody = [dead, fresh, known]
    assert visits.due(everybody, 1.0, most=9) == [fresh]
    assert visits.due(everybody, AGAIN_S, most=9) == [known, fresh]
    assert visits.due(everybody, FAILED_S, most=9) == [known, fresh, dead]
    assert visits.due(everybody, FAILED_S, most=1) == [known]
    visits.forget([fresh])
    assert visits.due([known], 1.0, most=9) == [known]


def test_an_address_is_tried_once_a_minute_whoever_announces_it() -> None:
    visits = Visits(public=False)
    address = parse_address("/ip4/192.0.2.1/tcp/4001")
    relayed = parse_address(f"/ip4/192.0.2.2/tcp/4001/p2p/{peer_id_of(bytes(32))}/p2p-circuit")
    assert visits.places([address, relayed], 0.0) == [str(address)]
    assert visits.places([address], SAME_PLACE_S - 1) == []
    assert visits.places([address], SAME_PLACE_S) == [str(address)]


def test_an_explorer_of_a_public_swarm_knocks_at_no_private_door() -> None:
    private = [parse_address(f"/ip4/{host}/tcp/80") for host in ("127.0.0.1", "10.0.0.1", "169.254.169.254")]
    public = parse_address("/ip4/8.8.8.8/tcp/4001")
    assert is_public([public])
    assert not is_public(private)
    assert Visits(public=True).places([*private, public], 0.0) == [str(public)]
    assert len(Visits(public=False).places([*private, public], 0.0)) == 4


# -- HTTP --------------------------------------------------------------------------------------------

Use = Callable[[aiohttp.ClientSession, int], Awaitable[None]]


def serve(explored: Explored, use: Use, host: str = "127.0.0.1") -> None:
    """Ask a running server."""

    async def main() -> None:
        ports: asyncio.Queue[int] = asyncio.Queue()
        async with asyncio.timeout(30), asyncio.TaskGroup() as tasks:
            server = ExplorerServer(explored, host=host, port=0)
            running = tasks.create_task(server.run(started=ports.put_nowait))
            port = await ports.get()
            async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as client:
                await use(client, port)
            running.cancel()

    asyncio.run(main())


def an_explored(*peers: Any, **changes: Any) -> Explored:
    explored = Explored(Source(reading(*peers, at_s=time.time(), **changes)), NobodyAnswers(), SWARM)
    explored.refresh()
    return explored


def test_it_serves_a_page_figures_and_lists() -> None:
    peers = [followed(number) for number in range(1, 5)]
    made_up = [followed(number, "unreachable") for number in range(100, 400)]

    async def use(client: aiohttp.ClientSession, port: int) -> None:
        for path in ("/", "/web/page.js", "/api/v1/rounds", "/healthz", "/readyz"):
            async with client.get(path) as answer:
                assert answer.status == 200, path
                assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
        status = await (await client.get("/api/v1/status")).json()
        assert status["explorer"] is True
        assert status["swarm"]["reached"] == 4
        assert [peer["path"] for peer in status["peers"]][:5] == ["direct"] * 4 + ["unreachable"]
        targets = await (await client.get("/sd")).json()
        assert len(targets) == 5
        assert {target["targets"][0] for target in targets} == {f"127.0.0.1:{port}"}
        assert [target["labels"]["__metrics_path__"] for target in targets][:1] == ["/metrics"]
        async with client.get(targets[1]["labels"]["__metrics_path__"]) as answer:
            assert answer.status == 503  # nobody answers here
        async with client.get(f"/peer/{peer_id_of(bytes(32))}/metrics") as answer:
            assert answer.status == 404

    serve(an_explored(*peers, *made_up), use)


def test_metrics_are_those_of_the_table() -> None:
    rejected = {"signature": 3, "an odd word": 1}
    explored = an_explored(followed(1), followed(2, state="odd"), rejected=rejected, looks=4)

    async def use(client: aiohttp.ClientSession, port: int) -> None:
        text = await (await client.get("/metrics")).text()
        samples = {
            (sample.name, *sample.labels.values()): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }
        names = {name for name, *_ in samples if name.startswith("talkoot_")}
        assert names == {family.name for family in EXPLORED}
        assert not names & FAMILIES.keys()
        assert samples["talkoot_explorer_peers", "full"] == 2
        assert samples["talkoot_explorer_peers_by_state", "other"] == 1
        assert samples["talkoot_explorer_round_frontier",] == 7
        assert samples["talkoot_explorer_records_rejected_total", "signature"] == 3
        assert samples["talkoot_explorer_records_rejected_total", "other"] == 1
        assert samples["talkoot_explorer_looks_total",] == 4

    serve(explored, use)


def test_nothing_can_be_changed_and_no_strange_page_reads_it() -> None:
    async def use(client: aiohttp.ClientSession, port: int) -> None:
        for path in ("/", "/api/v1/leave", "/api/v1/sample", "/api/v1/ban"):
            async with client.post(path, json={}) as answer:
                assert answer.status == 405, path
        for path in ("/api/v1/leave", "/api/v1/invites", "/api/v1/leaderboard", "/../etc/passwd"):
            async with client.get(path) as answer:
                assert answer.status == 404, path
        for headers in ({"Host": "evil.example"}, {"Sec-Fetch-Site": "cross-site"}):
            async with client.get("/api/v1/status", headers=headers) as answer:
                assert answer.status == 403
        async with client.get("/metrics", headers={"Host": "x y<"}) as answer:
            assert answer.status == 400

    serve(an_explored(followed(1)), use)


def test_published_it_answers_by_any_name_and_still_only_reads() -> None:
    async def use(client: aiohttp.ClientSession, port: int) -> None:
        async with client.get("/sd", headers={"Host": "status.example"}) as answer:
            assert (await answer.json())[0]["targets"] == ["status.example"]
        async with client.post("/api/v1/leave") as answer:
            assert answer.status == 405
        async with client.get("/metrics", headers={"Host": 'x"}]'}) as answer:
            assert answer.status == 400

    serve(an_explored(followed(1)), use, host="0.0.0.0")


def test_nobody_and_nothing_yet() -> None:
    explored = Explored(Source(NOTHING), NobodyAnswers(), SWARM)
    assert explored.state == "starting"

    async def use(client: aiohttp.ClientSession, port: int) -> None:
        async with client.get("/readyz") as answer:
            assert answer.status == 503
        async with client.get("/healthz") as answer:
            assert answer.status == 200
        assert "talkoot_explorer_round_frontier NaN" in await (await client.get("/metrics")).text()

    serve(explored, use)
    assert an_explored(nodes=0).state == "failed"
    with pytest.raises(ConfigError, match="no IP address"):
        ExplorerServer(explored, host="status.example", port=0)


def test_thousands_of_peers_make_no_endless_answer() -> None:
    many = [followed(number, "unreachable") for number in range(MAX_ROWS + 50)]
    assert len(an_explored(*many).status()["peers"]) == MAX_ROWS
    shown = screen(picture(reading(*many), SWARM), 100, 24)
    assert shown is not None
    assert "50 more" in snapshot(picture(reading(*many), SWARM))


def test_a_terminal_gets_no_control_characters() -> None:
    odd = followed(1, state="\x1b[31m".replace("\x1b", "?"), version="0.1.0 (Ada)")
    text = snapshot(picture(reading(odd, followed(2, offset=-1e9), followed(3, None)), SWARM))
    assert text.isprintable() or set(text) - set(" \n") <= {c for c in text if c.isprintable()}
    assert "Ada" in text


# -- the name ----------------------------------------------------------------------------------------


def test_the_manifest_is_asked_for_as_nodes_ask() -> None:
    assert msgspec.msgpack.encode(AskManifest()) == title.QUESTION
    assert title.state_protocol(SWARM).name == state_protocol(SWARM).name
    for status in ("ok", "gone", "busy", "unknown"):
        header = msgspec.msgpack.encode(Answer(status))
        assert title.read_status(header, bytes(32)) == status
    with pytest.raises(RemoteError, match="malformed"):
        title.read_status(b"\x91", bytes(32))


def test_neither_torch_nor_hivemind_is_loaded() -> None:
    program = """
import sys
import talkoot.cli.explore, talkoot.cli.explore_frame, talkoot.peer.exploring.server
print([name for name in ("torch", "hivemind", "numpy", "scipy", "transformers") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
