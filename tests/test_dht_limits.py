"""What other peers may take of a node: channels, connections, rates, memory; and that it is written down."""

import ast
import asyncio
import inspect
import re
import socket
from pathlib import Path

import pytest
from dht_rig import SPEC, Rig
from fuzzing import examples
from hypothesis import given
from hypothesis import strategies as st

from talkoot.dht import limits, stream
from talkoot.dht.channel_limits import ChannelLimits, Visitor
from talkoot.dht.company import Company
from talkoot.dht.errors import RemoteError
from talkoot.dht.framing import DATA, END_FRAME, encode_prefix
from talkoot.dht.guard import Connection, ConnectionGuard
from talkoot.dht.holding import Budget
from talkoot.dht.meter import Bucket, Flow, Meters, Rate
from talkoot.dht.multiaddr import parse_address, prefix_of
from talkoot.dht.network import ProtocolSpec, Traffic
from talkoot.dht.stream import StreamChannel

DOCS = Path(__file__).parent.parent / "docs" / "limits.md"


def constants() -> dict[str, object]:
    """The limits by name, in the order of the module."""
    tree = ast.parse(inspect.getsource(limits))
    names = [
        name.id
        for node in tree.body
        if isinstance(node, ast.Assign)
        for target in node.targets
        for name in (target.elts if isinstance(target, ast.Tuple) else [target])
        if isinstance(name, ast.Name)
    ]
    return {name: getattr(limits, name) for name in names}


def test_the_documentation_has_every_limit_with_its_value() -> None:
    rows = dict(re.findall(r"^\| `([A-Z_0-9]+)` \| ([\d,.]+) ", DOCS.read_text(), re.MULTILINE))
    assert {name: float(value.replace(",", "")) for name, value in rows.items()} == constants()


# -- rates ---------------------------------------------------------------------------------------------


@examples(100)
@given(st.lists(st.tuples(st.floats(0, 3), st.floats(0.1, 5)), max_size=60))
def test_nobody_gets_more_than_the_rate_and_what_was_saved(course: list[tuple[float, float]]) -> None:
    rate = Rate(2.0, 10.0)
    bucket, strict, now, spent, admitted = Bucket(rate, 0.0), Bucket(rate, 0.0), 0.0, 0.0, 0.0
    for pause, cost in course:
        now += pause
        admitted += cost if strict.try_take(cost, now) else 0
        assert admitted <= rate.burst + rate.per_s * now + 1e-6
        now += bucket.take(cost, now)  # as one that waits does
        spent += cost
        assert spent <= rate.burst + rate.per_s * now + 1e-6


def test_a_clock_that_goes_back_gives_nothing() -> None:
    bucket = Bucket(Rate(1.0, 1.0), 100.0)
    assert bucket.try_take(1, 100.0)
    assert not bucket.try_take(1, 50.0)
    assert bucket.try_take(1, 51.0)


def test_as_many_peers_are_remembered_as_are_allowed() -> None:
    meters: Meters[int] = Meters(Rate(1.0, 1.0), max_keys=3)
    first = meters.of(0, 0.0)
    for key in (1, 2, 0, 3):
        meters.of(key, 0.0)
    assert meters.of(0, 0.0) is first
    assert len(meters._buckets) == 3


def test_strangers_share_a_rate_and_others_do_not_feel_it() -> None:
    flow = Flow(Rate(10.0, 10.0), Rate(10.0, 20.0))
    waits = [flow.wait_s(bytes([key]), 1, 0.0, stranger=True) for key in range(30)]
    assert waits[19] == 0 < waits[20] < waits[29]
    assert not flow.at_fault
    assert flow.wait_s(b"chosen", 1, 0.0) == 0
    assert [flow.admit(b"loud", 1, 0.0) for _ in range(11)] == [True] * 10 + [False]
    assert flow.at_fault


# -- channels ------------------------------------------------------------------------------------------


def visitors(count: int, prefix: str | None = None, start: int = 0) -> list[Visitor]:
    return [Visitor(number.to_bytes(4, "big"), prefix) for number in range(start, start + count)]


def test_strangers_leave_room_for_those_that_we_chose() -> None:
    table = ChannelLimits(per_prefix=10**6)
    verdicts = [table.enter(each, spec(name), 0.0) for name in "abc" for each in visitors(500)]
    assert verdicts.count("ok") == limits.MAX_CHANNELS - limits.RESERVED_CHANNELS
    chosen = [Visitor(b"c%d" % number, "p", chosen=True) for number in range(500)]
    assert [table.enter(each, SPEC, 0.0) for each in chosen].count("ok") == limits.RESERVED_CHANNELS


def spec(name: str) -> ProtocolSpec:
    return ProtocolSpec(name=name, max_header=1, max_payload=1)


def test_one_peer_prefix_or_protocol_does_not_take_all() -> None:
    table = ChannelLimits()
    one = Visitor(b"one", "p")
    assert [table.enter(one, spec(f"{n}"), 0.0) for n in range(20)].count("ok") == limits.CHANNELS_PER_PEER
    for number in range(limits.CHANNELS_PER_PEER):
        table.leave(one, spec(f"{number}"))
    room = limits.CONNECTIONS_PER_PREFIX * limits.CHANNELS_PER_CONNECTION
    assert [table.enter(each, SPEC, 0.0) for each in visitors(200, "p")].count("ok") == room
    others = [table.enter(each, SPEC, 0.0) for each in visitors(300, None, start=1000)]
    assert others.count("ok") == limits.CHANNELS_PER_PROTOCOL - room
    assert table.enter(Visitor(b"x", "q"), spec("other"), 0.0) == "ok"


def test_who_opens_channels_too_fast_is_at_fault_and_others_are_not() -> None:
    table, one = ChannelLimits(), Visitor(b"one", "p")
    verdicts = []
    for _ in range(200):
        verdicts.append(table.enter(one, SPEC, 0.0))
        if verdicts[-1] == "ok":
            table.leave(one, SPEC)
    assert verdicts == ["ok"] * int(limits.OPENINGS_BURST) + ["flood"] * (200 - int(limits.OPENINGS_BURST))
    assert table.enter(Visitor(b"two", "p"), SPEC, 0.0) == "ok"
    assert table.enter(one, SPEC, 1.0) == "ok"


@examples(60)
@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 2), st.booleans()), max_size=150))
def test_what_leaves_makes_room_again(course: list[tuple[int, int, bool]]) -> None:
    table, entered, now = ChannelLimits(max_channels=8, per_prefix=1), [], 0.0
    for key, prefix, chosen in course:
        now += 1.0
        visitor = Visitor(bytes([key]), f"{prefix}", chosen)
        if table.enter(visitor, SPEC, now) == "ok":
            entered.append(visitor)
        strangers = [each for each in entered if not each.chosen]
        assert len(entered) <= 8
        assert len(strangers) <= 4
        if len(entered) > 5:
            table.leave(entered.pop(0), SPEC)
    for visitor in entered:
        table.leave(visitor, SPEC)
    assert table._strangers == 0
    assert not any((table._peers, table._open, table._prefixes, table._protocols))


# -- connections ---------------------------------------------------------------------------------------


def connections(count: int, prefix: str | None = None, start: int = 0) -> list[Connection]:
    names = [number.to_bytes(4, "big") for number in range(start, start + count)]
    return [Connection(name, name, prefix) for name in names]


def test_a_flood_of_connections_ends_with_those_that_came_last() -> None:
    guard = ConnectionGuard()
    first = connections(100)
    assert guard.too_many(first, chosen=lambda _: False, banned=()) == {}
    cut = guard.too_many([*connections(400, None, 1000), *first], chosen=lambda _: False, banned=())
    room = limits.MAX_CONNECTIONS - limits.RESERVED_CONNECTIONS
    assert len(cut) == 500 - room
    assert set(cut.values()) == {"node"}
    assert not {each.name for each in first} & set(cut)


def test_chosen_peers_stay_and_banned_ones_go() -> None:
    chosen = connections(200, "p")
    guard = ConnectionGuard()
    cut = guard.too_many(
        [*connections(50, "p", 1000), *chosen, Connection(b"rsa", None, None)],
        chosen=lambda peer: peer < (200).to_bytes(4, "big"),
        banned={(1003).to_bytes(4, "big")},
    )
    assert list(cut.values()).count("prefix") == 50 - 1 - limits.CONNECTIONS_PER_PREFIX
    assert cut[(1003).to_bytes(4, "big")] == "banned"
    assert not {each.name for each in chosen} & set(cut)
    many = guard.too_many(
        connections(1) * (limits.CONNECTIONS_PER_PEER + 1), chosen=lambda _: False, banned=()
    )
    assert set(many.values()) == {"peer"}


@pytest.mark.parametrize(
    ("text", "prefix"),
    [
        ("/ip4/192.0.2.77/tcp/1", "192.0.2.0/24"),
        ("/ip6/2001:db8:1:2::3/tcp/1", "2001:db8:1::/48"),
        ("/ip6/::ffff:192.0.2.77/tcp/1", "192.0.2.0/24"),
        ("/dns4/example.org/tcp/1", None),
    ],
)
def test_prefixes(text: str, prefix: str | None) -> None:
    assert prefix_of(parse_address(text).to_bytes()) == prefix


def test_an_address_through_a_relay_or_of_another_kind_has_no_prefix() -> None:
    assert prefix_of(b"") is None
    assert prefix_of(bytes(200)) is None
    plain = parse_address("/ip4/192.0.2.77/tcp/1").to_bytes()
    assert prefix_of(plain + b"\xa2\x02") is None


# -- memory and slow senders ---------------------------------------------------------------------------


async def accepted(channel: StreamChannel) -> socket.socket:
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    await asyncio.get_running_loop().create_unix_connection(lambda: channel, sock=ours)
    return theirs


def test_payloads_of_strangers_share_a_budget_until_they_are_dealt_with() -> None:
    async def main() -> None:
        budget = Budget(1000)
        one, two = (StreamChannel(b"k" * 32, SPEC, Traffic(), accepted=True, budget=budget) for _ in "ab")
        to_one, to_two = await accepted(one), await accepted(two)
        with to_one, to_two:
            to_one.send(encode_prefix(DATA, b"h", 600) + bytes(600))
            assert len((await one.receive(timeout_s=10)).payload) == 600
            to_two.send(encode_prefix(DATA, b"h", 600))  # a declaration alone
            with pytest.raises(RemoteError) as caught:
                await two.receive(timeout_s=10)
            assert caught.value.reason == "busy"
            to_one.send(encode_prefix(DATA, b"h", 900) + bytes(900))  # the first one is dealt with by now
            assert len((await one.receive(timeout_s=10)).payload) == 900
            await two.close()
            await one.close()
        assert budget.take(1000)

    Rig("asyncio").run(main())


def test_a_frame_that_does_not_go_on_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "SLOW_LOOK_S", 0.05)

    async def main() -> None:
        budget = Budget(1000)
        channel = StreamChannel(b"k" * 32, SPEC, Traffic(), accepted=True, budget=budget)
        with await accepted(channel) as other:
            other.send(encode_prefix(DATA, b"whole", 0) + encode_prefix(DATA, b"half", 500) + b"a")
            assert (await channel.receive(timeout_s=10)).header == b"whole"
            with pytest.raises(RemoteError) as caught:
                await channel.receive(timeout_s=10)
            assert caught.value.reason == "timeout"
        await channel.close()
        assert budget.take(1000)

    Rig("asyncio").run(main())


def test_a_channel_that_is_cut_or_stands_still_is_broken_and_one_that_ends_is_not() -> None:
    async def end(other: socket.socket, how: str) -> None:
        if how == "cut":
            other.send(encode_prefix(DATA, b"half", 500) + b"a")
        elif how == "ended":
            other.send(END_FRAME)

    async def main() -> None:
        for how, broken in (("cut", True), ("silent", True), ("ended", False), ("closed", False)):
            gone = asyncio.Event()
            channel = StreamChannel(b"k" * 32, SPEC, Traffic(), gone.set)
            with await accepted(channel) as other:
                await end(other, how)
                if how == "closed":
                    other.send(END_FRAME)
                    await channel.close()
            async with asyncio.timeout(10):
                await gone.wait()
            assert channel.broken is broken, how
            await channel.close()

    Rig("asyncio").run(main())


def test_a_request_has_no_payload_where_only_answers_have() -> None:
    async def main() -> None:
        asking = ProtocolSpec(name="ask", max_header=10, max_payload=2**20, max_request=0)
        channel = StreamChannel(b"k" * 32, asking, Traffic(), accepted=True)
        with await accepted(channel) as other:
            other.send(encode_prefix(DATA, b"h", 1))
            with pytest.raises(RemoteError) as caught:
                await channel.receive(timeout_s=10)
            assert caught.value.reason == "oversized"
        await channel.close()

    Rig("asyncio").run(main())


# -- whom we chose -------------------------------------------------------------------------------------


def test_being_dialled_keeps_a_connection_and_gives_no_place() -> None:
    company = Company()
    company.wanted = frozenset({b"w"})
    for number in range(limits.MAX_DIALLED + 1):
        company.dialled(bytes([number]))
    assert company.is_wanted(b"w")
    assert company.is_chosen(b"w")
    assert company.is_chosen(bytes([limits.MAX_DIALLED]))
    assert not company.is_wanted(bytes([limits.MAX_DIALLED]))
    assert not company.is_chosen(bytes([0]))  # so long ago
    for field in ("banned", "distrusted"):
        setattr(company, field, frozenset({b"w"}))
        assert not company.is_wanted(b"w")
        assert not company.is_chosen(b"w")
