"""Scores and bans: what lies costs, what honest mistakes never cost, and what the operator decides."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from fuzzing import examples
from hypothesis import given
from hypothesis import strategies as st

from talkoot.averaging.reasons import REASONS as ROUND_REASONS
from talkoot.dht.errors import REASONS as WIRE_REASONS
from talkoot.dht.errors import ConfigError, RemoteError
from talkoot.dht.identity import Identity
from talkoot.dht.memory import MemoryHub, MemoryNetwork
from talkoot.dht.network import ProtocolSpec, Source
from talkoot.peer import bans, penalties
from talkoot.peer.bans import MAX_BANS, BanList
from talkoot.peer.conduct import Conduct
from talkoot.peer.metrics import Metrics
from talkoot.peer.penalties import BAN_S, DISCONNECT_POINTS, HALF_LIFE_S, POINTS, penalty_of
from talkoot.peer.scores import MAX_SCORES, Scores
from talkoot.peer.simulation.virtual_time import run_virtual

SWARM = b"w" * 32
SPEC = ProtocolSpec(name="any", max_header=1, max_payload=1)
PEER = Identity.from_seed(b"p" * 32)
SOURCES: tuple[Source, ...] = ("wire", "record", "state", "round")

HONEST = (
    "already_voted", "broken_chain", "busy", "closed", "different_value", "ended", "equivocation", "full",
    "ineligible", "late", "left_out", "locked", "lost", "no_quorum", "not_a_voter", "not_the_leader",
    "objection", "out_of_order", "refused", "revoked", "stale", "timeout", "too_early", "too_far",
    "too_few_steps", "too_often", "unasked", "unreachable", "unsupported", "weak", "wrong_anchor",
    "wrong_branch", "wrong_cut", "wrong_draw", "wrong_genesis", "wrong_layout", "wrong_round", "wrong_swarm",
)  # fmt: skip
"""What peers do that are late, restarted, on another branch, of another invite, or cut off."""


# -- scores --------------------------------------------------------------------------------------------


@examples(60)
@given(st.lists(st.tuples(st.sampled_from(SOURCES), st.sampled_from(HONEST), st.floats(0, 1)), max_size=400))
def test_honest_mistakes_never_cost_anything(course: list[tuple[Source, str, float]]) -> None:
    scores, now = Scores(), 0.0
    for source, reason, pause in course:
        now += pause
        assert scores.add(PEER.key, penalty_of(source, reason), reason, now) == 0


def test_every_reason_is_either_honest_or_has_a_penalty() -> None:
    costly = {reason for _, reason in penalties.PENALTIES}
    known = {*ROUND_REASONS, *WIRE_REASONS}
    assert known - costly - set(HONEST) == {
        "banned",
        "unauthenticated",
    }  # of nobody, or of who is out already
    assert not costly & set(HONEST)
    assert penalty_of("round", "malformed") == "none"


def test_a_rotten_disk_that_is_asked_once_a_minute_never_gets_a_peer_cut_off() -> None:
    scores = Scores()
    points = [scores.add(PEER.key, penalty_of("state", "wrong_hash"), "", 60.0 * n) for n in range(3000)]
    assert points[-1] < DISCONNECT_POINTS


@pytest.mark.parametrize(("penalty", "count"), [("low", 50), ("mid", 10), ("high", 2), ("fatal", 1)])
def test_so_many_of_a_kind_are_a_ban_and_half_is_forgotten_in_ten_minutes(
    penalty: penalties.Penalty, count: int
) -> None:
    scores = Scores()
    for number in range(count):
        points = scores.add(PEER.key, penalty, "x", 0.0)
        assert scores.is_ban(points) == (number == count - 1)
    assert scores.points(PEER.key, HALF_LIFE_S) == pytest.approx(points / 2)
    assert scores.distrusted(0.0) == {PEER.key}
    assert scores.distrusted(3 * HALF_LIFE_S) == frozenset()
    scores.forgive(PEER.key)
    assert scores.points(PEER.key, 0.0) == 0


def test_the_worst_are_remembered_when_there_are_too_many() -> None:
    scores = Scores()
    scores.add(PEER.key, "high", "x", 0.0)
    for number in range(2 * MAX_SCORES):
        scores.add(number.to_bytes(32, "big"), "low", "x", 0.0)
    assert scores.points(PEER.key, 0.0) == POINTS["high"]
    assert len(scores._scores) <= MAX_SCORES


# -- the list ------------------------------------------------------------------------------------------


def test_a_list_goes_round_and_ends(tmp_path: Path) -> None:
    made = BanList(tmp_path / "bans.json")
    made.add(PEER.key, reason="  too \n loud ", by="operator", for_s=100.0, now=1000.0)
    made.add(b"q" * 32, reason="", by="score", for_s=None, now=1000.0)
    made.save()
    again = BanList.load(tmp_path / "bans.json")
    ban = again.of(PEER.key, 1099.0)
    assert ban is not None
    assert (ban.reason, ban.until) == ("too loud", 1100.0)
    assert again.of(PEER.key, 1100.0) is None
    assert set(again.current(1100.0)) == {b"q" * 32}
    assert again.expire(1100.0)
    assert not again.lift(PEER.key)
    assert not list(tmp_path.glob(".*"))
    assert BanList.load(tmp_path / "none").current(0.0) == {}


@pytest.mark.parametrize(
    "data",
    [
        b"", b"{", b"null", b"[1]", b"\xff", b"[" * 10**5, b'[{"peer":"x"}]',
        b'[{"peer":"12D3KooW","reason":"","by":"operator","since":0,"until":null}]',
        b'[{"peer":"%b","reason":"","by":"operator","since":0,"until":"x"}]' % PEER.peer_id.encode(),
        b'[{"peer":"%b","reason":"","by":"operator","since":0,"until":1,"x":1}]' % PEER.peer_id.encode(),
        b" " * 300_000,
    ],
)  # fmt: skip
def test_a_damaged_list_is_one_clear_line(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "bans.json"
    path.write_bytes(data)
    with pytest.raises(ConfigError, match=r"bans\.json is damaged") as caught:
        BanList.load(path)
    assert "\n" not in str(caught.value)
    assert path.read_bytes() == data


def test_the_list_is_bounded_and_what_the_operator_said_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    made = BanList(Path("unused"))
    for number in range(MAX_BANS):
        by = "operator" if number % 2 else "score"
        made.add(number.to_bytes(32, "big"), reason="x" * 80, by=by, for_s=1.0 + number, now=0.0)
    assert len(made.encode()) < bans_file_limit()
    made.add(PEER.key, reason="", by="score", for_s=BAN_S, now=0.0)
    assert len(made.current(0.0)) == MAX_BANS
    assert made.of(bytes(32), 0.0) is None  # of those that would have ended first
    assert made.of((1).to_bytes(32, "big"), 0.0) is not None
    monkeypatch.setattr(bans, "MAX_BANS", 1)
    few = BanList(Path("unused"))
    few.add(b"a" * 32, reason="", by="operator", for_s=None, now=0.0)
    for by, words in (("operator", "lift a ban first"), ("score", "no room")):
        with pytest.raises(ValueError, match=words):
            few.add(b"b" * 32, reason="", by=by, for_s=None, now=0.0)


def bans_file_limit() -> int:
    from talkoot.peer.small_files import MAX_SMALL_FILE_BYTES

    return MAX_SMALL_FILE_BYTES


@pytest.mark.parametrize(("reason", "for_s"), [("x" * 81, None), ("\x1b[31m", None), ("", 0.0), ("", 1e10)])
def test_reasons_and_times_have_bounds(reason: str, for_s: float | None) -> None:
    with pytest.raises(ValueError, match=r"reason|lasts"):
        BanList(Path("unused")).add(PEER.key, reason=reason, by="operator", for_s=for_s, now=0.0)


# -- both in a node ------------------------------------------------------------------------------------


class Rig:
    def __init__(self, path: Path) -> None:
        self.hub = MemoryHub()
        self.network: MemoryNetwork = self.hub.node(Identity.from_seed(b"n" * 32), swarm=SWARM)
        self.metrics = Metrics()
        self.wall = 1000.0
        self.path = path
        self.conduct = Conduct(self.network, path, self.metrics, wall=lambda: self.wall)

    def counted(self, name: str) -> dict[str, float]:
        family = next(f for f in self.metrics.registry.collect() if f.name == f"talkoot_{name}")
        return {s.labels["reason"]: s.value for s in family.samples if s.name.endswith("_total") and s.value}


def run(path: Path, main: Callable[[Rig], Awaitable[None]]) -> None:
    async def run_it() -> None:
        rig = Rig(path / "bans.json")
        rig.conduct.begin(rig.conduct.load())
        async with asyncio.TaskGroup() as group:
            service = group.create_task(rig.conduct.run())
            await main(rig)
            service.cancel()

    run_virtual(run_it())


def test_who_goes_on_sending_nonsense_is_cut_off_then_banned_then_forgotten(tmp_path: Path) -> None:
    async def main(rig: Rig) -> None:
        def banned() -> frozenset[bytes]:
            return rig.network.company.banned

        company, cut = rig.network.company, []
        rig.hub.on_banned = lambda _, peers: cut.append(peers)
        company.dialled(PEER.key)
        for _ in range(3):
            rig.network.events.reject("malformed", PEER.key)
        assert not cut
        assert company.is_chosen(PEER.key)
        rig.network.events.reject("malformed", PEER.key)
        assert cut == [{PEER.key}]
        assert not company.is_chosen(PEER.key)
        assert banned() == frozenset()
        await asyncio.sleep(HALF_LIFE_S)
        assert company.is_chosen(PEER.key)
        for _ in range(8):
            rig.network.events.reject("malformed", PEER.key)
        ban = rig.conduct.standing(PEER.key).ban
        assert ban is not None
        assert (ban.reason, ban.by, ban.until) == ("malformed", "score", rig.wall + BAN_S)
        assert rig.counted("peer_penalties") == {"malformed": 12}
        assert rig.counted("peer_bans") == {"malformed": 1}
        await asyncio.sleep(1)
        assert rig.conduct.load().of(PEER.key, rig.wall) == ban
        rig.wall += BAN_S
        await asyncio.sleep(3 * 3600)
        assert banned() == frozenset()
        assert rig.conduct.noted() == set()
        assert rig.conduct.load().current(0.0) == {}

    run(tmp_path, main)


def test_a_proof_bans_at_once_and_nobody_bans_itself(tmp_path: Path) -> None:
    async def main(rig: Rig) -> None:
        rig.conduct.proven(PEER.key, "equivocation")
        assert rig.network.company.banned == {PEER.key}
        for _ in range(100):
            rig.network.events.reject("oversized", rig.network.key)
        assert rig.network.company.banned == {PEER.key}
        with pytest.raises(ValueError, match="itself"):
            await rig.conduct.ban(rig.network.key, "", None)

    run(tmp_path, main)


def test_the_operator_bans_and_lifts(tmp_path: Path) -> None:
    async def main(rig: Rig) -> None:
        await rig.conduct.ban(PEER.key, "loud", 3600.0)
        assert rig.conduct.load().of(PEER.key, rig.wall) is not None
        with pytest.raises(RemoteError, match="banned"):
            await rig.network.dial(PEER.key, SPEC, timeout_s=1)
        rig.network.events.reject("oversized", PEER.key)
        assert await rig.conduct.unban(PEER.key)
        assert rig.network.company.banned == frozenset()
        assert rig.conduct.standing(PEER.key).points == 0
        assert rig.conduct.load().current(0.0) == {}
        assert not await rig.conduct.unban(PEER.key)

    run(tmp_path, main)


def test_a_list_that_cannot_be_written_holds_all_the_same(tmp_path: Path) -> None:
    async def main(rig: Rig) -> None:
        (tmp_path / "sub").write_text("no folder")
        rig.conduct.proven(PEER.key, "equivocation")
        await asyncio.sleep(1)
        assert rig.network.company.banned == {PEER.key}
        with pytest.raises(ConfigError, match="cannot write"):
            await rig.conduct.ban(b"q" * 32, "", None)
        (tmp_path / "sub").unlink()
        (tmp_path / "sub").mkdir()
        await asyncio.sleep(60)
        assert set(rig.conduct.load().current(rig.wall)) == {PEER.key, b"q" * 32}

    run(tmp_path / "sub", main)


def test_before_the_list_is_read_nothing_is_written(tmp_path: Path) -> None:
    async def main() -> None:
        rig = Rig(tmp_path / "bans.json")
        for _ in range(9):
            rig.network.events.reject("oversized", PEER.key)
        with pytest.raises(ValueError, match="just starting"):
            await rig.conduct.ban(PEER.key, "", None)
        assert not rig.path.exists()

    run_virtual(main())
