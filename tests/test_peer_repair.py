"""A damaged or unfinished state is completed with what is missing, and no more."""

import os
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
import torch
from state_rig import (
    FOUNDERS,
    KEYS,
    NUMEL,
    RULES,
    TOKENIZER,
    Answered,
    World,
    advance,
    blamed,
    certify,
    contribute,
    flip,
    found,
    keys,
    lying,
    run,
    same_state,
)

from talkoot.averaging.certificate import Value
from talkoot.averaging.digest import state_tree
from talkoot.averaging.succession import next_ledger
from talkoot.dht.errors import ConfigError
from talkoot.dht.identity import Identity
from talkoot.peer.head import StoreCorruptError
from talkoot.peer.holdings import Holdings, number_of, open_holdings
from talkoot.peer.joining import Joiner
from talkoot.peer.manifest import State
from talkoot.peer.obtaining import obtain_tokenizer
from talkoot.peer.statedir import StateDir
from talkoot.peer.store import OuterStore
from talkoot.peer.swarming import NodeFailed
from talkoot.peer.trainer.tokenizer import tokenizer_hash
from talkoot.peer.transfer import AskChunk, AskSnapshot, Request


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is durable has tests of its own."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


def chunks(made: World) -> int:
    """Chunks that all servers were asked for."""
    return sum(isinstance(request, AskChunk) for server in made.servers for request in server.asked)


def pair(tmp_path: Path, rounds: int = 2) -> tuple[Holdings, Path]:
    """A server's holdings, and the folder of a closed peer with the same state."""
    theirs, ours = found(tmp_path / "theirs"), found(tmp_path / "ours")
    for _ in range(rounds):
        advance(theirs)
        advance(ours)
    ours.close()
    return theirs, tmp_path / "ours"


def head_folder(path: Path) -> Path:
    return OuterStore.open(path / "outer", NUMEL).current.path


def flip_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def garble_log(path: Path) -> None:
    (path / "rounds.log").write_bytes(b"\xff\xfenonsense")


DAMAGE: dict[str, tuple[Callable[[Path], None], int]] = {
    "a flipped bit of the parameters": (lambda path: flip_byte(head_folder(path) / "theta.f32"), 1),
    "a flipped bit of the momentum": (lambda path: flip_byte(head_folder(path) / "momentum.f32"), 1),
    "a short file": (lambda path: cut(head_folder(path) / "momentum.f32"), 1),
    "a missing file": (lambda path: (head_folder(path) / "theta.f32").unlink(), 3),
    "a damaged HEAD": (lambda path: flip_byte(path / "outer" / "HEAD"), 6),
    "garbage for a log": (garble_log, 0),
}
"""What is done to a state directory, and how many chunks that costs."""


@pytest.mark.parametrize("name", DAMAGE)
def test_what_is_damaged_is_fetched(tmp_path: Path, name: str) -> None:
    theirs, path = pair(tmp_path)
    damage, cost = DAMAGE[name]
    damage(path)

    async def main(made: World) -> None:
        await made.serve(theirs)
        repaired = await (await made.joiner(path)).repair(keys(1), RULES, KEYS)
        assert repaired is not None
        assert same_state(repaired, theirs)
        assert chunks(made) == cost
        assert repaired.head == theirs.head
        known = [number_of(link) for link in repaired.certificates(0)]
        assert known == ([2] if name == "garbage for a log" else [0, 1, 2])
        again = open_holdings(StateDir(path), RULES)
        assert again.store.compute_digest() == theirs.digest

    run(main)


def test_a_newer_state_is_taken_where_nobody_has_the_damaged_one(tmp_path: Path) -> None:
    theirs, path = pair(tmp_path)
    for _ in range(2):
        advance(theirs)
    flip_byte(head_folder(path) / "theta.f32")

    async def main(made: World) -> None:
        await made.serve(theirs)
        repaired = await (await made.joiner(path)).repair(keys(1), RULES, KEYS)
        assert repaired is not None
        assert same_state(repaired, theirs)

    run(main)


def test_a_damaged_peer_follows_no_branch_that_leaves_its_final_round(tmp_path: Path) -> None:
    theirs, path = found(tmp_path / "theirs"), tmp_path / "ours"
    ours = found(path)
    advance(ours)
    ours.close()
    advance(theirs, by=FOUNDERS[:2], weak=True, step=0.5)
    advance(theirs, by=FOUNDERS[:2], weak=True, step=0.5)
    flip_byte(head_folder(path) / "theta.f32")

    async def main(made: World) -> None:
        await made.serve(theirs)
        joiner = await made.joiner(path)
        assert await joiner.repair(keys(1), RULES, KEYS) is None
        assert blamed(joiner) == {"wrong_branch": 1}
        with pytest.raises((StoreCorruptError, ValueError)):
            open_holdings(StateDir(path), RULES)

    run(main)


def test_a_liar_repairs_nothing(tmp_path: Path) -> None:
    theirs, path = pair(tmp_path)
    (head_folder(path) / "theta.f32").unlink()

    async def main(made: World) -> None:
        liar = await made.serve(theirs, lying(AskChunk, flip(5)))
        await made.serve(theirs)
        joiner = await made.joiner(path)
        repaired = await joiner.repair(keys(2), RULES, KEYS)
        assert repaired is not None
        assert same_state(repaired, theirs)
        assert blamed(joiner) == ({"wrong_hash": 1} if liar.asked else {})

    run(main)


def test_a_damaged_tokenizer_is_fetched_again(tmp_path: Path) -> None:
    path, expected = tmp_path / "tokenizer.json", tokenizer_hash(TOKENIZER)

    async def somebody() -> list[bytes]:
        return keys(1)

    async def nobody() -> list[bytes]:
        return []

    async def main(made: World) -> None:
        server = await made.serve(None)
        joiner = await made.joiner(tmp_path / "new")
        with pytest.raises(NodeFailed, match="no peer could give"):
            await obtain_tokenizer(path, expected, joiner, candidates=nobody)
        for content in (b"", TOKENIZER[:-1], TOKENIZER + b" ", TOKENIZER.replace(b"{", b"[", 1)):
            path.write_bytes(content)
            with pytest.raises(ConfigError, match="is damaged, and nobody here gives it again"):
                await obtain_tokenizer(path, expected, joiner, candidates=nobody)
            assert path.read_bytes() == content
            await obtain_tokenizer(path, expected, joiner, candidates=somebody)
            assert path.read_bytes() == TOKENIZER
        asked = len(server.asked)
        await obtain_tokenizer(path, expected, joiner, candidates=somebody)
        assert len(server.asked) == asked

    run(main)


# -- a download that was cut off ---------------------------------------------------------------------------


class Killed(BaseException):
    """The process ends here."""


@pytest.mark.parametrize("after", range(6))
def test_a_killed_newcomer_goes_on_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    source = found(tmp_path / "source")
    advance(source)

    async def first(made: World) -> None:
        def end(request: Request, honest: Answered) -> Answered:
            if isinstance(request, AskChunk) and chunks(made) == after + 1:
                made.hub.crash(made.servers[0].network.key)
            return honest

        await made.serve(source, end)
        assert await (await made.joiner(tmp_path / "new")).first_state(keys(1), RULES, KEYS) is None

    async def second(made: World) -> None:
        await made.serve(source)
        joiner = await made.joiner(tmp_path / "new")  # as another process would
        got = await joiner.first_state(keys(1), RULES, KEYS)
        assert got is not None
        assert same_state(got, source)
        assert chunks(made) <= 6 - max(0, after - 1)
        assert {path.name for path in (tmp_path / "new" / "outer").iterdir()} >= {"a", "HEAD"}
        assert not (tmp_path / "new" / "outer" / "DOWNLOAD").exists()

    run(first)
    run(second)


@pytest.mark.parametrize("generation", [b"a", b"c", b"../b", b"", b"\xff" * 90])
def test_what_a_killed_download_left_is_never_believed(tmp_path: Path, generation: bytes) -> None:
    source = found(tmp_path / "source")
    advance(source)
    StateDir(tmp_path / "new").prepare()
    store = OuterStore.prepare(tmp_path / "new" / "outer", NUMEL)
    store.stage().theta.fill_(7.0)
    (store.path / "DOWNLOAD").write_bytes(source.digest + generation)

    async def main(made: World) -> None:
        await made.serve(source)
        got = await (await made.joiner(tmp_path / "new")).first_state(keys(1), RULES, KEYS)
        assert got is not None
        assert same_state(got, source)
        assert chunks(made) == 6

    run(main)


# -- a result that differs ---------------------------------------------------------------------------------


def test_a_result_that_differs_in_one_chunk_costs_one_chunk(tmp_path: Path) -> None:
    ours, theirs = found(tmp_path / "ours"), found(tmp_path / "theirs")
    certificate = advance(theirs)
    cut_of_round = tuple(contribute(ours, one) for one in sorted(FOUNDERS, key=lambda one: one.key))
    ledger = next_ledger(ours.ledger, cut_of_round, tuple(sorted(one.key for one in FOUNDERS)), ours.rules)
    aggregate = torch.full((NUMEL,), 0.25)
    aggregate[5] = 0.5  # this machine has computed something else
    assert ours.apply(aggregate, ledger) != certificate.value.digest

    async def main(made: World) -> None:
        await made.serve(theirs)
        joiner = await made.joiner(tmp_path / "ours")
        assert await joiner.obtain(keys(1), ours, certificate.value.digest, ledger)
        assert chunks(made) == 2  # one of the parameters, one of the momentum
        ours.commit(certificate, ledger)
        assert same_state(ours, theirs)

    run(main)


# -- states that nobody may take ---------------------------------------------------------------------------


def poisoned(path: Path) -> Holdings:
    """Founders that have certified a state with a NaN in it."""
    holdings = found(path)
    holdings.keep = State(snapshot_rounds=8)  # not the poisoned one
    advance(holdings)
    present = tuple(sorted(one.key for one in FOUNDERS))
    cut_of_round = tuple(contribute(holdings, one) for one in sorted(FOUNDERS, key=lambda one: one.key))
    ledger = next_ledger(holdings.ledger, cut_of_round, present, holdings.rules)
    aggregate = torch.zeros(NUMEL)
    aggregate[300_000] = float("nan")
    value = Value(
        swarm=ledger.swarm,
        round=holdings.ledger.round,
        prior=holdings.digest,
        cut=cut_of_round,
        present=present,
        parts=(),
        digest=holdings.apply(aggregate, ledger),
        voters=ledger.voters,
    )
    holdings.commit(certify(value, FOUNDERS), ledger)
    return holdings


def test_a_certified_state_with_a_number_that_is_none_is_not_taken(tmp_path: Path) -> None:
    source = poisoned(tmp_path / "source")

    async def main(made: World) -> None:
        await made.serve(source)
        joiner: Joiner = await made.joiner(tmp_path / "new")
        assert await joiner.first_state(keys(1), RULES, KEYS) is None
        assert blamed(joiner) == {"not_finite": 1}
        got = await joiner.first_state(keys(1), RULES, KEYS)  # what was kept before it is still good
        assert got is not None
        assert got.ledger.round == 0
        assert got.store.theta.isfinite().all()

    run(main)


def stranger_snapshot(tmp_path: Path) -> Callable[[Request, Answered], Answered]:
    """Offers the snapshot of somebody else's swarm, or of a forged chain, beside an honest head."""
    other = found(tmp_path / "other")
    strangers = [Identity.from_seed(bytes([n]) * 32) for n in (41, 42, 43)]
    forged = certify(other.head.value, strangers)
    digest = state_tree(other.store.theta + 1, other.store.momentum, other.ledger.encode()).digest
    value = msgspec.structs.replace(forged.value, digest=digest)
    payload = msgspec.msgpack.encode([certify(value, strangers).encode(), other.ledger.encode()])

    def lie(request: Request, honest: Answered) -> Answered:
        return ("ok", payload) if isinstance(request, AskSnapshot) else honest

    return lie


def test_a_snapshot_that_is_not_on_the_branch_is_not_looked_at(tmp_path: Path) -> None:
    source = found(tmp_path / "source")
    advance(source)

    async def main(made: World) -> None:
        for _ in range(2):
            await made.serve(source, stranger_snapshot(tmp_path / str(len(made.servers))))
        joiner = await made.joiner(tmp_path / "new")
        joiner.replays = 3
        got = await joiner.first_state(keys(2), RULES, KEYS)
        assert got is not None
        assert same_state(got, source)

    run(main)
