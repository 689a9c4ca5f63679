"""Whom a member of a sparse exchange asks, and what it hands out: sentence by sentence."""

from dataclasses import replace

from averaging_help import make_contribution, make_rules, peers
from round_swarm import ToySigner

from talkoot.averaging.blobs import Blob, Layout, bits, runs_of
from talkoot.averaging.fetcher import Fetcher
from talkoot.averaging.handing import WINDOW, Handing
from talkoot.averaging.known import Known
from talkoot.averaging.messages import MAX_ASKED, Asked, Have, Join, Run
from talkoot.averaging.sparse import patience_of

PIECES = 40
RULES = make_rules(numel=PIECES * 10, chunk_size=10, piece_bytes=1, eager_bytes=0)
LAYOUT = Layout(RULES, "int8")
SIX = peers(6)
US, OWNER, RELAY, OTHER, CLIENT, LAST = SIX


def join(signer: ToySigner) -> Join:
    return Join(
        round=5, attempt=0, key=signer.key, prior=b"p" * 32, role="client" if signer is CLIENT else "full",
        upload=0.0, contribution=None, lock=None, holds=(), expects_s=(), memory="whole",
    )  # fmt: skip


def known(blobs: list[Blob], key: bytes = US.key) -> Known:
    return Known(key, [join(signer) for signer in SIX], blobs, LAYOUT)


def blob_of(signer: ToySigner) -> Blob:
    return Blob(make_contribution(signer, numel=RULES.numel, root=signer.key), LAYOUT)


def says(there: Known, signer: ToySigner, *runs: tuple[int, int]) -> list[int]:
    """A member names pieces (first, count) of the only blob."""
    said = Have(round=5, attempt=0, runs=tuple(Run(0, first, count) for first, count in runs))
    return there.heard(signer.key, said)


def asked(fetcher: Fetcher) -> dict[bytes, set[int]]:
    return {holder: {item.piece for item in pieces} for holder, pieces in fetcher.take_changes()}


def wanter() -> tuple[Known, Fetcher]:
    """We lack everything of the owner's blob; the owner is there."""
    there = known([blob_of(OWNER)])
    fetcher = Fetcher(there, 4.0, 0.0)
    fetcher.heard(OWNER.key, says(there, OWNER, (0, PIECES)), 0.0)
    return there, fetcher


def test_the_owner_is_not_asked_as_long_as_it_hands_out() -> None:
    _, fetcher = wanter()
    assert asked(fetcher) == {}


def test_a_few_pieces_are_asked_of_whoever_names_them() -> None:
    there, fetcher = wanter()
    fetcher.heard(RELAY.key, says(there, RELAY, (0, 20)), 0.0)
    pieces = asked(fetcher)[RELAY.key]
    assert len(pieces) == 2
    assert pieces < set(range(20))


def test_no_piece_is_asked_of_two() -> None:
    there, fetcher = wanter()
    fetcher.heard(RELAY.key, says(there, RELAY, (0, PIECES)), 0.0)
    fetcher.heard(OTHER.key, says(there, OTHER, (0, PIECES)), 0.0)
    wanted = asked(fetcher)
    assert not wanted[RELAY.key] & wanted[OTHER.key]


def test_clients_are_asked_last() -> None:
    there, fetcher = wanter()
    fetcher.heard(CLIENT.key, says(there, CLIENT, (0, PIECES)), 0.0)
    assert asked(fetcher) == {}


def test_a_holder_that_stalls_is_replaced_after_the_deadline_and_the_owner_may_be_asked() -> None:
    there, fetcher = wanter()
    fetcher.heard(RELAY.key, says(there, RELAY, (0, 2)), 0.0)
    assert asked(fetcher) == {RELAY.key: {0, 1}}
    fetcher.heard(OTHER.key, says(there, OTHER, (2, 1)), 3.0)  # the blob makes progress all the while
    assert asked(fetcher) == {OTHER.key: {2}}
    assert fetcher.next_tick == 4.0
    fetcher.tick(4.0)
    assert asked(fetcher) == {RELAY.key: set(), OWNER.key: {0, 1}}


def test_what_waits_moves_to_a_holder_that_is_free() -> None:
    there, fetcher = wanter()
    fetcher.heard(RELAY.key, says(there, RELAY, (0, 1)), 0.0)
    assert asked(fetcher) == {RELAY.key: {0}}
    fetcher.must_wait(RELAY.key, (0, 0), 0.1)
    assert asked(fetcher) == {}  # nobody else has it
    fetcher.heard(OTHER.key, says(there, OTHER, (0, 1)), 0.2)
    assert asked(fetcher) == {RELAY.key: set(), OTHER.key: {0}}


def test_what_a_lost_holder_was_asked_for_is_asked_elsewhere() -> None:
    there, fetcher = wanter()
    fetcher.heard(RELAY.key, says(there, RELAY, (0, 1)), 0.0)
    asked(fetcher)
    there.lost(RELAY.key)
    fetcher.lost(RELAY.key, 0.1)
    assert asked(fetcher) == {OWNER.key: {0}}


def test_only_the_cut_is_fetched_after_it() -> None:
    there, fetcher = wanter()
    fetcher.heard(RELAY.key, says(there, RELAY, (0, PIECES)), 0.0)
    asked(fetcher)
    fetcher.only((), 0.1)
    assert asked(fetcher) == {RELAY.key: set()}
    assert fetcher.next_tick is None


# -- handing out -------------------------------------------------------------------------------------------


def holder(rules_eager: int = 0) -> tuple[Known, Handing]:
    """We own the only blob, whole; three full members and a client are there."""
    blob = blob_of(US)
    blob.held = LAYOUT.all
    layout = Layout(replace(RULES, eager_bytes=rules_eager), "int8")
    there = Known(US.key, [join(signer) for signer in SIX], [blob], layout)
    for signer in (OWNER, RELAY, OTHER, CLIENT):
        says(there, signer)
    return there, Handing(there, 0, 4.0)


def test_few_pieces_are_under_way_each_to_one_member_and_none_to_clients() -> None:
    _, handing = holder()
    sent = handing.serve(0.0)
    assert len(sent) == WINDOW[0]
    assert len({item.piece for item in sent}) == len({item.to for item in sent}) == len(sent)
    assert CLIENT.key not in {item.to for item in sent}
    assert all(item.index for item in sent)


def test_the_window_grows_while_pieces_are_announced_soon_and_no_piece_goes_twice() -> None:
    there, handing = holder()
    handed: list[int] = []
    under_way = handing.serve(0.0)
    while under_way:
        assert len(under_way) <= WINDOW[1]
        item = under_way.pop(0)
        handed.append(item.piece)
        signer = next(signer for signer in SIX if signer.key == item.to)
        handing.heard(item.to, says(there, signer, (item.piece, 1)), 0.1)
        under_way += handing.serve(0.1)
    assert sorted(handed) == list(range(PIECES))


def test_a_piece_that_nobody_announces_is_handed_to_another() -> None:
    _, handing = holder()
    first = {item.piece: item.to for item in handing.serve(0.0)}
    assert handing.next_tick is not None
    again = {item.piece: item.to for item in handing.serve(8.0)}  # twice the patience
    assert first.keys() & again.keys()
    assert all(first[piece] != to for piece, to in again.items() if piece in first)


def test_a_blob_that_is_small_enough_goes_to_everybody() -> None:
    _, handing = holder(rules_eager=10**9)
    sent = handing.serve(0.0)
    assert {item.to for item in sent} == {signer.key for signer in (OWNER, RELAY, OTHER, CLIENT)}
    assert len(sent) == 4 * PIECES


def test_a_request_replaces_the_one_before() -> None:
    _, handing = holder()
    handing.serve(0.0)
    handing.want(OTHER.key, [Asked(0, 30, False), Asked(0, 31, False)])
    handing.want(OTHER.key, [Asked(0, 32, False)])
    assert handing.waiting(OTHER.key) == [(0, 32)]


def test_patience_is_longer_with_few_pieces_and_bounded() -> None:
    assert patience_of(8.0, 1) == 4.0
    assert patience_of(8.0, 100) == 1.0
    assert patience_of(3600.0, 100) == 15.0
    assert MAX_ASKED >= 2


def test_masks_and_runs() -> None:
    mask = 0b1110_0110_1
    runs = runs_of(3, mask)
    assert [(run.blob, run.first, run.count) for run in runs] == [(3, 0, 1), (3, 2, 2), (3, 6, 3)]
    assert sum(((1 << run.count) - 1) << run.first for run in runs) == mask
    assert list(bits(mask)) == [0, 2, 3, 6, 7, 8]
