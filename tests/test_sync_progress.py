"""How far a download is, in numbers and in words."""

from talkoot.cli.reading import status_text
from talkoot.dht.pacing import Pacing
from talkoot.peer.metrics import Metrics
from talkoot.peer.metrics.labels import Follow
from talkoot.peer.serving import Gate
from talkoot.peer.sync_progress import WINDOW_S, SyncProgress, words

MB = 1_000_000


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def progress_after(clock: Clock, seconds: int, per_s: int) -> SyncProgress:
    progress = SyncProgress(clock)
    progress.begin(1000 * MB)
    progress.found(100 * MB)
    progress.sources = ("a", "b")
    for _ in range(seconds):
        clock.now += 1
        progress.received(per_s)
    return progress


def test_the_rate_is_that_of_the_last_seconds() -> None:
    clock = Clock()
    progress = progress_after(clock, 20, 10 * MB)
    assert progress.done_bytes == 300 * MB
    assert progress.rate == 10 * MB
    assert progress.left_s == 70
    for _ in range(int(WINDOW_S) + 1):
        clock.now += 1
        progress.received(20 * MB)
    assert progress.rate == 20 * MB
    assert words(progress) == "520 of 1,000 MB, 20.0 MB/s, 24 s left, 2 sources"


def test_what_is_wasted_is_no_progress() -> None:
    progress = progress_after(Clock(), 1, 10 * MB)
    progress.received(5 * MB, wasted=True)
    assert (progress.done_bytes, progress.received_bytes, progress.wasted_bytes) == (
        110 * MB,
        15 * MB,
        5 * MB,
    )


def test_before_anything_has_come_the_end_is_not_known() -> None:
    progress = SyncProgress(Clock())
    assert (progress.rate, progress.left_s) == (0.0, None)
    progress.begin(10 * MB)
    assert progress.left_s is None
    assert words(progress) == "0 of 10 MB, 0.0 MB/s, 0 sources"


def test_a_bar_for_the_terminal() -> None:
    sync = {
        "done_bytes": 250 * MB,
        "total_bytes": 1000 * MB,
        "bytes_per_second": 25 * MB,
        "left_s": 30.0,
        "sources": ["a", "b", "c"],
    }
    lines = status_text({"state": "syncing", "sync": sync, "trainer": "ready"}).splitlines()
    assert "trainer   loaded, begins as soon as the state is here" in lines
    line = next(line for line in lines if line.startswith("sync"))
    assert "[######..................] 250.0 MB of 1000.0 MB, 25.0 MB/s" in line or "######......" in line
    assert line.endswith("3 sources")


def test_the_metrics_follow() -> None:
    metrics, clock = Metrics(), Clock()
    progress = progress_after(clock, 3, 10 * MB)
    metrics.follow_download(progress)
    clock.now += 1
    progress.received(10 * MB, wasted=True)
    metrics.follow_download(progress)
    metrics.follow_download(progress_after(clock, 1, 10 * MB))
    value = metrics.registry.get_sample_value
    assert value("talkoot_state_fetched_bytes_total") == 50 * MB
    assert value("talkoot_state_fetch_wasted_bytes_total") == 10 * MB
    assert value("talkoot_state_fetch_done_ratio") == 0.11
    gate = Gate()
    gate.answered("gone")
    gate.sent_bytes = 7
    metrics.follow_serving(gate, Pacing(), Follow())
    assert value("talkoot_checkpoint_served_bytes_total") == 7
    assert value("talkoot_state_requests_refused_total", {"reason": "gone"}) == 1
