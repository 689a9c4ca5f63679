"""The page of a real daemon in a real swarm, one of whose peers is killed while somebody looks."""

import json
import urllib.request
from pathlib import Path

import pytest
from page_rig import chromium, needs_browser, tab
from swarm_help import daemons, small_manifest, until

pytestmark = [needs_browser, pytest.mark.processes]


@pytest.mark.trial
def test_a_killed_peer_is_missed_and_comes_back(tmp_path: Path) -> None:
    with daemons(tmp_path) as swarm, chromium() as browser:
        founder = swarm.found(small_manifest(peers=3))
        swarm.join()
        victim = swarm.join()
        swarm.counted(*swarm.peers, since=0)
        address = f"http://127.0.0.1:{swarm.status(founder)['http_port']}/"
        name = swarm.status(victim)["peer_id"]
        row = f"document.querySelector('[data-peer=\"{name}\"]')"
        with tab(browser, address) as page:
            page.until(f"{row} && /training|exchanging/.test({row}.textContent)")
            for key in ("peer_id", "swarm_name", "version", "role", "device", "voters", "codec"):
                found = page.page.query_selector(f"[data-key={key}]")
                if found is not None:
                    assert found.text_content() == str(swarm.status(founder)[key])

            victim.kill()
            page.until(f"{row} && {row}.textContent.includes('not connected')")
            assert "lost its connection" in page.text("#news")

            gone = swarm.round_of(founder)
            until(lambda: swarm.round_of(founder) >= gone + 2, "rounds without it", swarm.peers)
            with urllib.request.urlopen(f"{address}api/v1/rounds?last=1") as answer:
                newest = json.load(answer)["rounds"][-1]["round"]
            page.until(f"Number(document.querySelector('#rounds button').textContent) >= {newest}")

            victim.start()
            back = f"!!{row} && /training|exchanging/.test({row}.textContent)"
            until(lambda: page.page.evaluate(back), "peer that is back", swarm.peers)
