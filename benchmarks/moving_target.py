"""What a newcomer receives until it has caught up with a swarm that commits rounds meanwhile.

    python benchmarks/moving_target.py [--slowness 1 2 4 6] [--phases 0 2 5 7] [--snapshot-rounds N]
        [--log-rounds N]

Real states and records of rounds (600,000 parameters, int8) over the network in memory. SLOWNESS is how many
rounds are committed while as many bytes come as the state has; the newcomer begins PHASE rounds after a
multiple of 8. Printed for each slowness, median and most over the phases: bytes received, in states; states
of which chunks were asked for; rounds until it held the same as the others. It gives up after 12.
"""

import argparse
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

import torch

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from record_rig import play
from state_rig import MANIFEST, NUMEL, RULES, World, found, keys, run

from talkoot.dht.errors import RemoteError
from talkoot.peer.holdings import Holdings
from talkoot.peer.manifest import Manifest
from talkoot.peer.roundlog import limits_of, replayable_rounds
from talkoot.peer.rules_of import founder_keys
from talkoot.peer.transfer import Answered, AskChunk, AskRecord, Request

STATE_BYTES = 8 * NUMEL
FIRST_ROUND = 8
MOST_STATES = 12.0
"""A newcomer that received so much has not caught up."""


@dataclass
class Moving:
    """Sources that commit rounds as bytes leave them."""

    sources: list[Holdings]
    slowness: float
    given: float = 0.0
    """Bytes of chunks and records, in states."""
    rounds: int = 0

    def on_answer(self, request: Request, honest: Answered) -> Answered:
        """The clock of this swarm are the bytes."""
        if isinstance(request, AskChunk | AskRecord):
            self.given += len(honest[1]) / STATE_BYTES
            while self.rounds + 1 <= self.given * self.slowness:
                self.rounds += 1
                for holdings in self.sources:
                    play(holdings)
        return honest


@dataclass(frozen=True)
class Joined:
    """What it took."""

    states: float
    begun: int
    rounds: int
    caught_up: bool


def join(folder: Path, manifest: Manifest, slowness: float, phase: int) -> Joined:
    """One newcomer."""
    sources = [found(folder / name) for name in ("first", "second")]
    for holdings in sources:
        holdings.keep = manifest.state
        holdings.keep_records(limits_of(manifest))
        for _ in range(FIRST_ROUND + phase):
            play(holdings)
    moving = Moving(sources, slowness)
    results: list[Joined] = []

    async def main(made: World) -> None:
        for holdings in sources:
            await made.serve(holdings, moving.on_answer)
        joiner = await made.joiner(folder / "new")
        joiner.keep, joiner.replays = manifest.state, replayable_rounds(manifest)
        founders = founder_keys(MANIFEST)
        got = await joiner.first_state(keys(2), RULES, founders)
        assert got is not None
        got.keep_records(limits_of(manifest))
        while moving.given < MOST_STATES and got.digest != sources[0].digest:
            try:
                await joiner.update(keys(2), got, founders)
            except (RemoteError, TimeoutError):
                break
        asked = {one.digest for server in made.servers for one in server.asked if isinstance(one, AskChunk)}
        caught_up = got.digest == sources[0].digest
        results.append(Joined(moving.given, len(asked), moving.rounds, caught_up))
        got.close()

    run(main)
    for holdings in sources:
        holdings.close()
    return results[0]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--slowness", type=float, nargs="+", default=[1.0, 2.0, 4.0, 6.0])
    parser.add_argument("--phases", type=int, nargs="+", default=[0, 2, 5, 7])
    parser.add_argument("--snapshot-rounds", type=int, default=MANIFEST.state.snapshot_rounds)
    parser.add_argument("--log-rounds", type=int, default=MANIFEST.state.log_rounds)
    options = parser.parse_args()
    torch.set_num_threads(1)
    state = replace(MANIFEST.state, snapshot_rounds=options.snapshot_rounds, log_rounds=options.log_rounds)
    manifest = replace(MANIFEST, state=state)
    print(f"snapshot every {state.snapshot_rounds} rounds, {replayable_rounds(manifest)} rounds in the log")
    for slowness in options.slowness:
        seen = []
        for phase in options.phases:
            with tempfile.TemporaryDirectory() as folder:
                seen.append(join(Path(folder), manifest, slowness, phase))
        states, rounds = [one.states for one in seen], [one.rounds for one in seen]
        print(
            f"slowness {slowness:g}: {sum(one.caught_up for one in seen)} of {len(seen)} caught up; "
            f"{median(states):.2f} states received (most {max(states):.2f}), "
            f"{median(one.begun for one in seen):g} begun (most {max(one.begun for one in seen)}), "
            f"after {median(rounds):g} rounds (most {max(rounds)})",
            flush=True,
        )


if __name__ == "__main__":
    main()
