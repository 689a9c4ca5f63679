"""A retry: the dead reducer's chunks go to its neighbours, and only what is missing is sent again."""

from fuzzing import examples
from hypothesis import given
from hypothesis import strategies as st
from round_swarm import Node, Swarm

from talkoot.averaging import outputs
from talkoot.averaging.messages import BulkHeader
from talkoot.averaging.parts import Part, parts_problem, reassign

NUMEL = 12 * 1024 - 100


@examples(200)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=12), st.data())
def test_reassigned_parts_cover_the_vector_and_keep_what_is_held(
    sizes: list[int], data: st.DataObject
) -> None:
    starts = [sum(sizes[:at]) for at in range(len(sizes))]
    keys = [bytes([at]) * 32 for at in range(len(sizes))]
    parts = tuple(Part(*item) for item in zip(keys, starts, sizes, strict=True))
    able = {key for key in keys if data.draw(st.booleans())}
    again = reassign(parts, able)
    if 2 * len(able) < len(parts) or not able:
        assert again is None
        return
    assert again is not None
    assert parts_problem(again, sum(sizes), able) is None
    now = {part.reducer: part for part in again}
    for part in parts:
        if part.reducer in able:
            assert set(part.chunks) <= set(now[part.reducer].chunks)


class Wire(Swarm):
    """Notes every slice that travels."""

    def __init__(self) -> None:
        super().__init__(4, numel=NUMEL, chunk_size=1024)
        self.slices: list[tuple[bytes, bytes, BulkHeader]] = []

    def _perform(self, node: Node, out: outputs.Output) -> None:
        if isinstance(out, outputs.SendBulk) and out.header.kind == "slice":
            self.slices.append((node.key, out.to, out.header))
        super()._perform(node, out)


def after_a_death(victim: int) -> Wire:
    """The victim dies when every slice has arrived and before the cut is everywhere."""
    swarm = Wire()
    swarm.start_round()
    order = next(iter(swarm.nodes.values())).machine.context.order
    swarm.close()
    leader = swarm.nodes[order[0]].machine
    swarm.run_until(lambda: leader.phase == "certifying")
    swarm.kill(order[victim])
    swarm.run(30.0)
    return swarm


def test_a_retry_sends_only_the_dead_reducers_chunks() -> None:
    for victim in (1, 2, 3):
        swarm = after_a_death(victim)
        living = [node for node in swarm.nodes.values() if node.alive]
        assert len({node.digest for node in living if node.commits}) == 1
        assert all(node.commits for node in living)
        first = [item for item in swarm.slices if item[2].attempt == 0]
        again = [item for item in swarm.slices if item[2].attempt > 0]
        assert len(first) == 4 * 12 - 12  # everyone keeps its own part's
        # Three chunks of three contributions, each but where the contributor is the new reducer itself.
        assert len(again) == 3 * 3 - 3, [item[2] for item in again]


def test_what_a_reducer_holds_is_bounded_by_its_part() -> None:
    swarm = after_a_death(1)
    for node in swarm.nodes.values():
        if node.alive:
            held = node.machine.slices.held(node.key)
            assert (
                sum(item.num_chunks for item in held) <= 3 * 6
            )  # three contributions, half a dead part more


def test_a_reducer_that_claims_slices_it_never_got_only_loses_its_role() -> None:
    from hostile_rig import scene

    made = scene(victim=1, until=lambda s: s.victim.machine.phase == "exchanging")
    made.finish()
    assert len({node.digest for node in made.swarm.nodes.values()}) == 1
