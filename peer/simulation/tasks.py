"""What a simulated swarm trains: by default nothing, vectors that drift at random."""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from talkoot.averaging.audits import Audits
from talkoot.averaging.robustness import Robustness
from talkoot.peer.manifest import Compression, Exchange
from talkoot.peer.simulation.peers import SimPeer
from talkoot.peer.simulation.robustness import robustness_of
from talkoot.peer.simulation.sim_trainer import SimTrainer
from talkoot.peer.trainer.protocol import TrainerEvent, TrainerSpec

CHUNK_SIZE = 256
NUMEL = 4 * CHUNK_SIZE - 100
INNER_STEPS = 30

OnEvent = Callable[[TrainerEvent], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class Task:
    """See the module."""

    numel: int
    chunk_size: int
    inner_steps: int
    robustness: Robustness
    make_trainer: Callable[[SimPeer, TrainerSpec, OnEvent, float], SimTrainer]
    """(peer, spec, on_event, seconds until it is ready)."""
    start_peers: int = 1
    """So many have to be there before anybody trains."""
    theta: torch.Tensor | None = None
    """The first parameters; None: drawn by the seed."""
    audits: Audits = field(default_factory=Audits)


def drift(seed: int, exchange: Exchange, compression: Compression) -> Task:
    """The default; robustness is the seed's."""
    return Task(
        numel=NUMEL,
        chunk_size=CHUNK_SIZE,
        inner_steps=INNER_STEPS,
        robustness=robustness_of(seed, exchange, compression),
        make_trainer=_drifting,
    )


def _drifting(peer: SimPeer, spec: TrainerSpec, on_event: OnEvent, start_s: float) -> SimTrainer:
    return SimTrainer(
        spec,
        on_event,
        numel=NUMEL,
        speed=peer.speed * peer.slowness,
        seed=1000 * peer.number + peer.lives,
        start_s=start_s,
    )
