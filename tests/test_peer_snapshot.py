"""The state of every so-many-th round is kept for others, never at the expense of the head."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from state_rig import (
    FOUNDERS,
    KEYS,
    NUMEL,
    RULES,
    Answered,
    World,
    advance,
    found,
    keys,
    run,
    same_state,
)

from talkoot.averaging.digest import state_tree
from talkoot.peer.head import SNAPSHOT, read_head
from talkoot.peer.holdings import Holdings, number_of, open_holdings
from talkoot.peer.manifest import State
from talkoot.peer.statedir import StateDir
from talkoot.peer.store import OuterStore
from talkoot.peer.transfer import AskChunk, AskSnapshot, Request


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is durable has tests of its own."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


def kept(holdings: Holdings) -> int | None:
    """Round of the snapshot, if there is one; its bytes are what its certificate says."""
    snapshot = holdings.snapshot()
    if snapshot is None:
        return None
    certificate, ledger = snapshot
    served = holdings.state(certificate.value.digest)
    assert served is not None
    assert state_tree(served.theta, served.momentum, ledger.encode()).digest == certificate.value.digest
    return number_of(certificate)


def every(holdings: Holdings, rounds: int) -> Holdings:
    holdings.keep = State(snapshot_rounds=rounds)
    return holdings


def test_each_third_round_is_kept_until_the_next(tmp_path: Path) -> None:
    holdings = every(found(tmp_path), 3)
    seen = [kept(holdings)]
    for _ in range(7):
        advance(holdings)
        seen.append(kept(holdings))
        assert holdings.store.compute_digest() == holdings.digest
    assert seen == [0, 0, 0, 3, 3, 3, 6, 6]


def test_it_is_found_again_and_compared_with_its_digest(tmp_path: Path) -> None:
    holdings = every(found(tmp_path), 2)
    for _ in range(3):
        advance(holdings)
    holdings.close()
    again = open_holdings(StateDir(tmp_path), RULES, State(snapshot_rounds=2))
    assert kept(again) == 2
    again.close()
    assert again.store.snapshot is not None
    again.store.snapshot_generation.theta[77] += 1.0
    damaged = open_holdings(StateDir(tmp_path), RULES, State(snapshot_rounds=2))
    assert damaged.snapshot() is None
    assert damaged.store.compute_digest() == damaged.digest
    advance(damaged)
    assert kept(damaged) == 4


def test_none_is_kept_where_the_manifest_says_so(tmp_path: Path) -> None:
    StateDir(tmp_path).prepare()
    holdings = every(found(tmp_path), 0)
    holdings.store.unpin()
    for _ in range(4):
        advance(holdings)
    assert holdings.snapshot() is None
    assert {path.name for path in (tmp_path / "outer").iterdir()} == {"a", "b", "HEAD"}


def test_a_weak_round_is_not_kept(tmp_path: Path) -> None:
    holdings = every(found(tmp_path), 1)
    advance(holdings)
    advance(holdings, by=FOUNDERS[:1], weak=True)
    assert kept(holdings) == 1


def test_who_downloads_keeps_it_a_while_longer(tmp_path: Path) -> None:
    holdings = every(found(tmp_path), 2)
    seen = []
    for _ in range(10):
        snapshot = holdings.snapshot()
        assert snapshot is not None
        holdings.snapshot_asked_for(snapshot[0].value.digest)
        advance(holdings)
        seen.append(kept(holdings))
    assert seen == [0, 0, 0, 0, 0, 0, 0, 8, 8, 8]  # at most four times as long, whoever asks


def test_the_state_before_the_head_is_there_until_the_next_one_is_staged(tmp_path: Path) -> None:
    holdings = every(found(tmp_path), 0)
    advance(holdings)
    digests = [holdings.digest]
    for _ in range(2):
        advance(holdings)
        digests.append(holdings.digest)
    assert [holdings.state(digest) is not None for digest in digests] == [False, True, True]


def test_a_disk_without_room_for_a_third_generation_costs_the_snapshot_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    holdings = every(found(tmp_path), 2)
    assert kept(holdings) == 0
    advance(holdings)
    allocate = os.posix_fallocate

    def full(descriptor: int, offset: int, length: int) -> None:
        if os.fstat(descriptor).st_size == 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        allocate(descriptor, offset, length)

    monkeypatch.setattr(os, "posix_fallocate", full)
    advance(holdings)
    assert holdings.ledger.round == 2
    assert kept(holdings) == 2
    advance(holdings)
    assert (holdings.ledger.round, kept(holdings)) == (3, 2)  # until its place is needed
    assert len(holdings.store.generations) == 2
    assert holdings.store.compute_digest() == holdings.digest


def test_a_pin_that_fails_leaves_the_round_committed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    holdings = every(found(tmp_path), 2)
    advance(holdings)

    def hook(step: str) -> None:
        if step.startswith(SNAPSHOT):
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(holdings.store, "_hook", hook)
    advance(holdings)
    assert holdings.ledger.round == 2
    monkeypatch.setattr(holdings.store, "_hook", lambda _step: None)
    for _ in range(2):
        advance(holdings)
        assert holdings.store.compute_digest() == holdings.digest
    assert kept(holdings) == 4


CHILD = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from test_peer_store import NUMEL, advance, new_store
from talkoot.peer.head import SNAPSHOT
from talkoot.peer.store import OuterStore

folder = Path(sys.argv[2])

def check(path):
    store = OuterStore.open(path, NUMEL, verify=True)
    if store.snapshot is not None:
        kept = store.snapshot_generation
        from talkoot.averaging.digest import state_tree
        digest = state_tree(kept.theta, kept.momentum, store.snapshot.ledger).digest
        assert digest == store.snapshot.digest, (store.snapshot.round, store.head.round)
    return store.head.round, store.snapshot.round if store.snapshot else None

def rounds(path, hook):
    store = OuterStore.open(path, NUMEL, hook=hook)
    for _ in range(8):
        advance(store)
        if store.head.round % 3 == 0:
            store.pin()
    store.unpin()
    advance(store)

steps = []
new_store(folder / "counted")
rounds(folder / "counted", steps.append)
for number in range(len(steps)):
    path = folder / str(number)
    new_store(path)
    pid = os.fork()
    if pid == 0:
        left = [number]
        def hook(_step):
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            left[0] -= 1
        rounds(path, hook)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
    head, snapshot = check(path)
    rounds(path, lambda _: None)
    check(path)
print(len(steps))
"""


@pytest.mark.processes
def test_sigkill_at_every_step_leaves_no_snapshot_without_its_digest(tmp_path: Path) -> None:
    command = [sys.executable, "-c", CHILD, str(Path(__file__).parent), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 50


# -- joining while rounds go on ----------------------------------------------------------------------------


def test_rounds_go_on_while_the_snapshot_is_downloaded(tmp_path: Path) -> None:
    first, second = (every(found(tmp_path / name), 4) for name in ("first", "second"))
    for _ in range(5):
        for holdings in (first, second):
            advance(holdings)

    kept_there = first.snapshot()
    assert kept_there is not None
    snapshot = kept_there[0].value.digest

    def on_chunk(request: Request, honest: Answered) -> Answered:
        if isinstance(request, AskChunk):
            for holdings in (first, second):
                if holdings.ledger.round < 11:
                    advance(holdings)
        return honest

    async def main(made: World) -> None:
        for holdings in (first, second):
            await made.serve(holdings, on_chunk)
        joiner = await made.joiner(tmp_path / "new")
        joiner.replays = 3  # it asks for the snapshot first
        got = await joiner.first_state(keys(2), RULES, KEYS)
        assert got is not None
        while await joiner.update(keys(2), got, KEYS) is not None:
            pass
        asked = [
            [request for request in server.asked if isinstance(request, AskChunk)] for server in made.servers
        ]
        of_snapshot = [[request for request in one if request.digest == snapshot] for one in asked]
        digests = list(dict.fromkeys(request.digest for one in asked for request in one))
        assert digests[0] == snapshot  # whole, though rounds went on meanwhile
        for (
            one
        ) in of_snapshot:  # nobody is asked twice for the same, and the other only for what is still owed
            assert len(set(one)) == len(one)
        assert sum(map(len, of_snapshot)) <= 6 + 3
        assert same_state(got, first)  # and then what was committed since

    run(main)


def test_a_head_that_vanishes_is_given_up_for_the_snapshot_that_stays(tmp_path: Path) -> None:
    first, second = (every(found(tmp_path / name), 2) for name in ("first", "second"))
    for _ in range(3):
        for holdings in (first, second):
            advance(holdings)

    def on_chunk(request: Request, honest: Answered) -> Answered:
        if isinstance(request, AskChunk) and first.ledger.round < 9:
            for holdings in (first, second):
                advance(holdings)
        return honest

    async def main(made: World) -> None:
        for holdings in (first, second):
            await made.serve(holdings, on_chunk)
        joiner = await made.joiner(tmp_path / "new")
        got = await joiner.first_state(keys(2), RULES, KEYS)
        assert got is not None
        while await joiner.update(keys(2), got, KEYS) is not None:
            pass
        assert same_state(got, first)
        assert sum(isinstance(request, AskSnapshot) for request in made.servers[0].asked) >= 2

    run(main)


def test_all_peers_give_what_a_newcomer_needs(tmp_path: Path) -> None:
    holdings = [found(tmp_path / str(number)) for number in range(3)]
    for one in holdings:
        advance(one)

    async def main(made: World) -> None:
        for one in holdings:
            await made.serve(one)
        joiner = await made.joiner(tmp_path / "new")
        got = await joiner.first_state(keys(3), RULES, KEYS)
        assert got is not None
        assert torch.equal(got.store.theta, holdings[0].store.theta)
        counts = [sum(isinstance(r, AskChunk) for r in server.asked) for server in made.servers]
        assert sum(counts) == 6
        assert all(counts)

    run(main)


def test_what_a_snapshot_needs_is_told(tmp_path: Path) -> None:
    assert OuterStore.needed_bytes(NUMEL) == 3 * 8 * NUMEL
    assert OuterStore.unallocated_bytes(tmp_path, NUMEL) == 3 * 8 * NUMEL
    found(tmp_path)
    assert OuterStore.unallocated_bytes(tmp_path / "outer", NUMEL) <= 8 * NUMEL
    assert read_head(tmp_path / "outer", SNAPSHOT) is not None
