"""The demo's figures: totals over restarts, agreement of digests, when to kill, and how it is all said."""

import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from talkoot.cli.demo_kill import DOWN_S, Act, KillPlan
from talkoot.cli.demo_node import DemoNode
from talkoot.cli.demo_report import Losses, Report, data_parallel_bytes, make_report, summary_text
from talkoot.cli.demo_screen import Screen
from talkoot.cli.demo_watch import PeerRecord, Watch
from talkoot.cli.reading import status_text
from talkoot.cli.text_plot import text_plot


def test_totals_go_on_over_a_restart() -> None:
    record = PeerRecord()
    record.see({"bytes_sent": 100, "steps_total": 50})
    record.see({"bytes_sent": 150, "steps_total": 60})
    record.restarted()
    record.see({"bytes_sent": 10, "steps_total": 58})  # bytes count from 0 again, steps were saved
    record.see({"bytes_sent": 30, "steps_total": 70})
    assert record.total("bytes_sent") == 180
    assert record.total("steps_total") == 70
    assert record.total("rounds_aborted") == 0


def entry(number: int, digest: str, **more: Any) -> dict[str, Any]:
    return {"round": number, "digest": digest, "kind": "final", **more}


def test_digests_are_compared_round_by_round() -> None:
    watch = Watch(2)
    assert not watch.digests_equal  # nothing was seen
    watch.see_rounds(0, [entry(0, "a"), entry(1, "b", global_step=60)])
    watch.see_rounds(1, [entry(1, "b")])
    assert watch.digests_equal
    assert watch.rounds_committed == 2
    watch.see_rounds(1, [entry(2, "c"), {"round": 3, "digest": "x", "kind": "aborted"}, {"round": None}])
    assert watch.rounds_committed == 3
    assert watch.steps_after(2) == 60
    watch.see_rounds(0, [entry(2, "d")])
    assert not watch.digests_equal
    assert watch.different_rounds == [2]


def test_a_loss_that_comes_later_completes_the_curve() -> None:
    watch = Watch(1)
    watch.see_rounds(0, [entry(0, "a", eval_loss=None, global_step=30)])
    assert watch.curve == []
    watch.see_rounds(0, [entry(0, "a", eval_loss=3.0, global_step=30, tokens=5)])
    assert watch.curve == [{"round": 0, "step": 30, "tokens": 5, "loss": 3.0}]


def test_a_peer_is_looked_for_among_those_that_later_rounds_counted() -> None:
    watch = Watch(2)
    assert watch.next_round == 0
    watch.peers[1].see({"peer_id": "p1"})
    for number, counted in enumerate((["p0", "p1"], ["p0"], ["p0"], ["p0", "p1"])):
        watch.see_rounds(0, [entry(number, "a", counted=counted)])
    assert watch.next_round == 4
    assert watch.counting(1, since=1) == 3
    assert watch.counting(1, since=4) is None
    assert watch.counting(0, since=0) is None  # not known by name yet


def test_kill_waits_for_an_exchange() -> None:
    plan = KillPlan()
    assert plan.step(now=0, share=0.1, rounds=3, state="exchanging") is Act.NOTHING
    assert plan.step(now=1, share=0.4, rounds=0, state="exchanging") is Act.NOTHING
    assert plan.step(now=2, share=0.4, rounds=1, state="training") is Act.NOTHING
    assert plan.step(now=3, share=0.4, rounds=1, state="exchanging") is Act.KILL
    assert plan.step(now=3.1, share=0.4, rounds=1, state="starting") is Act.NOTHING
    assert plan.step(now=3 + DOWN_S, share=0.5, rounds=1, state="starting") is Act.RESTART
    assert plan.step(now=15, share=0.5, rounds=1, state="syncing") is Act.NOTHING
    assert plan.step(now=16, share=0.6, rounds=1, state="training") is Act.NOTHING
    assert plan.killed_in_state == "exchanging"
    assert plan.back_after_s == pytest.approx(16 - 3 - DOWN_S)


def test_kill_does_not_wait_forever() -> None:
    assert KillPlan().step(now=0, share=0.6, rounds=1, state="training") is Act.KILL


def test_a_kill_is_pending_until_the_victim_is_seen_at_work_and_counted() -> None:
    plan = KillPlan()
    assert not plan.pending
    plan.step(now=0, share=0.6, rounds=1, state="training")
    plan.step(now=DOWN_S, share=0.7, rounds=1, state="starting")
    plan.counted_in_round = 3  # the others said so; it has not answered yet
    assert plan.pending
    plan.step(now=DOWN_S + 1, share=0.8, rounds=3, state="training")
    assert not plan.pending


def test_data_parallel_bytes() -> None:
    # ring all-reduce of 4 peers: 1.5 times the fp32 gradient
    assert data_parallel_bytes(peers=4, numel=1000, steps=10) == 60_000
    assert data_parallel_bytes(peers=1, numel=1000, steps=10) == 0


def report(**losses: Any) -> Report:
    watch = Watch(2)
    status = {"numel": 1000, "steps_total": 100, "bytes_sent": 4000, "tokens_total": 10**6}
    for peer, record in enumerate(watch.peers):
        record.see(status)
        watch.see_rounds(peer, [entry(0, "a")])
    return make_report(
        watch, Losses(**losses), seconds=180.4, kill=None, victim="peer-1", exited=[], forced=[]
    )


def test_summary() -> None:
    good = report(start=5.545, end=1.84, single=1.99, single_steps=100)
    assert good.ok
    assert good.data_parallel_ratio == 100
    text = summary_text(good)
    assert "5.545 -> 1.840" in text
    assert "1.990 after the same 100 steps: the swarm's is 7.5 % lower" in text
    assert "4.0 kB, 100 times less than the 400.0 kB of fp32 data parallel" in text
    assert "2.0 M tokens by 2 peers in 3 min 00 s" in text
    assert "not measured" in summary_text(report())


def test_a_demo_without_a_round_fails() -> None:
    empty = make_report(Watch(2), Losses(), seconds=1, kill=None, victim="", exited=[], forced=[])
    assert not empty.ok
    assert empty.data_parallel_ratio is None
    assert "no round to compare" in summary_text(empty)


def watched(tmp_path: Path) -> tuple[list[DemoNode], Watch]:
    """One peer that trains and one that was not started."""
    nodes = [DemoNode(f"peer-{index}", tmp_path, ()) for index in range(2)]
    watch = Watch(2)
    status = {"state": "exchanging", "reason": "forming", "round": 3, "loss": 2.5, "bytes_sent": 1500}
    nodes[0].status = status
    watch.peers[0].see(status)
    return nodes, watch


def test_live_table(tmp_path: Path) -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=120)
    with Screen(console) as screen:
        screen.show("2 min left", *watched(tmp_path))
        screen.say("a line that stays [not markup]")
    text = console.file.getvalue()  # type: ignore[attr-defined]
    for words in (
        "2 min left",
        "steps/s",
        "exchanging (forming)",
        "1.5 kB",
        "down",
        "that stays [not markup]",
    ):
        assert words in text


def test_plain_lines_come_seldom(tmp_path: Path) -> None:
    console = Console(file=io.StringIO(), width=40)
    with Screen(console) as screen:
        screen.show("first", *watched(tmp_path))
        screen.show("second", *watched(tmp_path))
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert len(lines) == 3
    assert lines[0] == "first"
    assert "peer peer-0  state exchanging (forming)  round 3" in lines[1]


def test_text_plot() -> None:
    assert text_plot([("nothing", [], True)]) == ""
    lines = text_plot([("a", [(0, 5), (10, 1)], True), ("b", [(10, 3)], False)], width=20, height=5).split(
        "\n"
    )
    assert len(lines) == 8
    assert lines[0].startswith("   5.000")
    assert lines[4].startswith("   1.000")
    assert lines[2].endswith("\N{MULTIPLICATION SIGN}")
    assert "a" in lines[-1]
    assert text_plot([("one point", [(1, 1)], True)])


def test_status_in_words() -> None:
    text = status_text(
        {
            "peer_id": "12D3KooWabc",
            "swarm_name": "demo",
            "swarm_id": "00" * 32,
            "state": "syncing",
            "reason": "snapshot",
            "uptime_s": 65,
            "round": 3,
            "loss": 2.5,
            "bytes_sent": 1500,
            "sync": {"done_bytes": 1e6, "total_bytes": 3e6, "source": "x"},
            "peers": [{"peer_id": "12D3KooWdef", "role": "full", "connected": True, "state": "training"}],
        }
    )
    assert "syncing (snapshot), up 1 min 05 s" in text
    assert "1.0 MB of 3.0 MB" in text
    assert "2.500 training, - held out" in text
    assert "peers     1 known" in text
    assert status_text({})  # a daemon that says little is still shown
