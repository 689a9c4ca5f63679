"""The order of visits on the way to a place, against a map of a whole network."""

import random

from talkoot.dht.entries import directory_place
from talkoot.dht.outside.search import MAX_VISITS, WIDTH, Search, distance

TARGET = directory_place(bytes(32))


def network(count: int, rng: random.Random) -> dict[bytes, list[bytes]]:
    """Each node knows some others, those near the target among them: as Kademlia's buckets do."""
    keys = sorted((rng.randbytes(32) for _ in range(count)), key=lambda key: distance(key, TARGET))
    return {
        key: keys[max(0, number - 10) : number] + rng.sample(keys, min(count, 10))
        for number, key in enumerate(keys)
    }


def walk(search: Search, neighbours: dict[bytes, list[bytes]], dead: set[bytes]) -> None:
    while (key := search.take()) is not None:
        search.done(key, None if key in dead else neighbours.get(key, []))


def test_the_nearest_nodes_are_found_from_anywhere() -> None:
    rng = random.Random(1)
    nodes = network(500, rng)
    nearest = list(nodes)[:5]
    for _ in range(20):
        search = Search(TARGET, [rng.choice(list(nodes))])
        walk(search, nodes, dead=set())
        assert search.nearest(5) == nearest
        assert search.visits <= MAX_VISITS


def test_dead_nodes_are_passed_by() -> None:
    rng = random.Random(2)
    nodes = network(200, rng)
    keys = list(nodes)
    dead = {keys[0], keys[2], keys[3]}
    search = Search(TARGET, [keys[-1]])
    walk(search, nodes, dead)
    assert search.nearest(3) == [keys[1], keys[4], keys[5]]
    assert not dead & set(search.answered)


def test_a_liar_that_names_nodes_without_end_costs_so_many_visits() -> None:
    rng = random.Random(3)
    search = Search(TARGET, [bytes(32)])
    visits = 0
    while (key := search.take()) is not None:
        visits += 1
        search.done(key, [rng.randbytes(32) for _ in range(20)])
    assert visits <= MAX_VISITS


def test_nobody_is_visited_twice_nor_who_is_to_be_left_out() -> None:
    rng = random.Random(4)
    nodes = network(50, rng)
    keys = list(nodes)
    search = Search(TARGET, [keys[5], keys[5], keys[9]], avoid=[keys[0]])
    seen = []
    while (key := search.take()) is not None:
        seen.append(key)
        search.done(key, nodes[key])
    assert len(seen) == len(set(seen)) >= WIDTH
    assert seen[:2] == [keys[5], keys[9]]
    assert keys[0] not in seen
