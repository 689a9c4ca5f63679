"""A voter that only observes: it votes and leads, contributes nothing, and reduces only where it must."""

import pytest
from round_swarm import Node, Swarm

from talkoot.averaging import outputs
from talkoot.averaging.messages import Ahead, Call

CHUNK = 1024


def make(num_peers: int, observes: int, num_voters: int | None = None, exchange: str = "dense") -> Swarm:
    """A swarm; of the voters the one that leads attempt `observes` only observes."""
    swarm = Swarm(
        num_peers,
        numel=4 * CHUNK,
        chunk_size=CHUNK,
        num_voters=num_voters,
        exchange=exchange,  # type: ignore[arg-type]
    )
    swarm.start_round()
    observer = leader(swarm, observes)
    observer.role, observer.steps = "observer", 0
    swarm.start_round()
    return swarm


def leader(swarm: Swarm, attempt: int) -> Node:
    context = next(iter(swarm.nodes.values())).machine.context
    return swarm.nodes[context.leader(attempt)]


def others(swarm: Swarm, *out: Node) -> list[Node]:
    return [node for node in swarm.nodes.values() if node not in out]


def reducers(node: Node) -> set[bytes]:
    return {part.reducer for part in node.commits[0].value.parts}


@pytest.mark.parametrize("exchange", ["dense", "sparse"])
@pytest.mark.parametrize("attempt", [0, 1])
def test_it_is_present_and_does_not_reduce(attempt: int, exchange: str) -> None:
    swarm = make(4, attempt, exchange=exchange)
    observer = leader(swarm, attempt)
    trainers = others(swarm, observer)
    for node in trainers:  # it does not close a round, whether it leads or not
        swarm.close(node.key)
        node.machine.almost = observer.machine.almost = True
    swarm.run(30.0)
    assert len({node.digest for node in swarm.nodes.values()}) == 1
    for node in swarm.nodes.values():
        value = node.commits[0].value
        assert (node.commits[0].kind, node.commits[0].attempt) == ("final", 0)
        assert observer.key in value.present
        assert {item.key for item in value.cut} == {one.key for one in trainers}
        assert reducers(node) <= {one.key for one in trainers}


def test_it_reduces_where_no_other_voter_is_there() -> None:
    """Of five voters it alone; the two others contribute by invitation."""
    swarm = make(7, 1, num_voters=5)
    observer = leader(swarm, 1)
    newcomers = [node for node in swarm.nodes.values() if node.key not in observer.ledger.voters]
    for node in others(swarm, observer, *newcomers):
        node.alive = False
    swarm.connect()
    observer.machine.almost = True
    swarm.close(*(node.key for node in newcomers))
    swarm.run(60.0)
    for node in (observer, *newcomers):
        assert node.commits[0].kind == "weak"
        assert reducers(node) == {observer.key}
        assert {item.key for item in node.commits[0].value.cut} == {one.key for one in newcomers}
    assert len({node.digest for node in (observer, *newcomers)}) == 1


def test_it_reduces_rather_than_clients() -> None:
    swarm = make(4, 2)
    observer = leader(swarm, 2)
    for node in others(swarm, observer):
        node.role = "client"
    swarm.start_round()
    swarm.close(*(node.key for node in others(swarm, observer)))
    swarm.run(30.0)
    assert {frozenset(reducers(node)) for node in swarm.nodes.values()} == {frozenset([observer.key])}


def test_it_reduces_where_the_others_keep_silent() -> None:
    """The only other voter that may reduce is frozen, as its connections do not show."""
    swarm = make(4, 1)
    observer = leader(swarm, 1)
    full, *clients = others(swarm, observer)
    for node in clients:
        node.role = "client"
    swarm.start_round()
    swarm.close(*(node.key for node in (full, *clients)))
    machine = leader(swarm, 0).machine
    swarm.run_until(lambda: machine.phase == "exchanging")
    full.alive = False
    swarm.run(60.0)
    for node in (observer, *clients):
        assert node.commits[0].kind == "final"
        assert reducers(node) == {observer.key}


def test_a_join_that_came_too_early_is_not_forgotten() -> None:
    swarm = make(4, 0)
    observer = leader(swarm, 0)
    assert not observer.machine.asked
    swarm.close(*(node.key for node in others(swarm, observer)))
    swarm.run(0.1)
    assert (observer.machine.phase, observer.machine.asked) == ("idle", True)
    swarm.close(observer.key)
    swarm.run(30.0)
    assert {node.commits[0].attempt for node in swarm.nodes.values()} == {0}


def test_who_has_no_vote_comes_back_to_an_attempt_that_is_called() -> None:
    """Voters say that they are ahead instead: they may have voted there."""
    swarm = make(5, 0, num_voters=3)
    caller = leader(swarm, 0)
    newcomer = next(node for node in swarm.nodes.values() if node.key not in caller.ledger.voters)
    voter = leader(swarm, 1)
    call = Call(round=0, attempt=0, prior=caller.digest, form_s=1.0)
    for node, goes_back in ((newcomer, True), (voter, False)):
        node.machine.attempt = 40
        outs = node.machine.receive(caller.key, call, swarm.now)
        assert (node.machine.attempt == 0) is goes_back
        ahead = [out for out in outs if isinstance(out, outputs.Send) and isinstance(out.message, Ahead)]
        assert bool(ahead) is not goes_back


def test_who_has_no_vote_stays_where_the_leader_called_it() -> None:
    swarm = make(5, 0, num_voters=3)
    first, second = leader(swarm, 0), leader(swarm, 1)
    newcomer = next(node for node in swarm.nodes.values() if node.key not in first.ledger.voters)
    for caller, attempt in ((second, 1), (first, 0)):
        call = Call(round=0, attempt=attempt, prior=first.digest, form_s=1.0)
        newcomer.machine.receive(caller.key, call, swarm.now)
        assert newcomer.machine.attempt == 1
