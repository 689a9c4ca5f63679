"""The page of an explorer in a real headless Chromium: the swarm, and nothing of a node that there is not."""

import asyncio
import time
from collections.abc import Iterator
from typing import Any

import pytest
from dht_rig import SWARM
from exploring_rig import NobodyAnswers, Source, followed, reading
from page_rig import chromium, needs_browser, served_by, tab

from talkoot.peer.exploring.server import ExplorerServer
from talkoot.peer.exploring.view import Explored

pytestmark = [needs_browser, pytest.mark.xdist_group("browser")]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as opened:
        yield opened


def a_swarm(now: int) -> Explored:
    """One that has passed some rounds."""
    source = Source(reading())
    explored = Explored(source, NobodyAnswers(), SWARM)
    for passed in range(4, now + 1):
        peers = [followed(number, round=passed) for number in range(1, 9)]
        away = [followed(number, "unreachable", round=passed) for number in (20, 21)]
        source.reading = reading(*peers, *away, at_s=time.time(), looks=passed)
        explored.refresh()
    explored.name = "demo"
    return explored


def test_it_shows_the_swarm_and_hides_what_only_a_node_knows(browser: Any) -> None:
    explored = a_swarm(12)

    async def server(**options: Any) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(ExplorerServer(explored, host="127.0.0.1", port=0).run(**options))

    with served_by(server) as address, tab(browser, address) as opened:
        assert opened.text("#link") == "live"
        assert opened.text("h1") == "demo"
        assert (opened.text("#swarm-steps"), opened.text("#swarm-loss")) == ("20.0", "2.295")
        assert (opened.text("#peers-connected"), opened.text("#peers-known")) == ("8", "10")
        assert opened.text("#why") == "8 of 8 peers at the frontier agree"
        shown = "all => all.filter(e => e.offsetParent !== null).map(e => e.id)"
        assert opened.page.eval_on_selector_all("h2", shown) == ["swarm-title", "peers-title", "news-title"]
        rows = opened.page.eval_on_selector_all("#peers tbody tr", "all => all.map(row => row.dataset.peer)")
        assert rows == [peer["peer_id"] for peer in explored.status()["peers"]]
        assert all(request.startswith(address) for request in opened.requests)
        asked = {request.removeprefix(address).partition("?")[0] for request in opened.requests}
        assert "api/v1/leaderboard" not in asked
