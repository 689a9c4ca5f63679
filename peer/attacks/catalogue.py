"""Known attacks by name: on updates, and on the messages of a round.

A liar knows the honest updates of the round and the other liars. Attacks on messages are run by whole nodes
(`talkoot.peer.attacks.nodes`).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch

from talkoot.averaging.certificate import MAX_CLAIM
from talkoot.peer.attacks import formulas
from talkoot.peer.attacks.accusers import Accuser
from talkoot.peer.attacks.reducers import desert, equivocate_loudly, lie_loudly
from talkoot.peer.simulation.peers import SimPeer
from talkoot.peer.simulation.villains import Villainy, call_away, count_only, withhold_from
from talkoot.peer.trainer.windows import Windows

ALWAYS = 10**9


@dataclass(frozen=True, slots=True)
class View:
    """What a liar knows when it makes up its update."""

    honest: Sequence[torch.Tensor]
    """Updates of the honest peers in this round."""
    own: torch.Tensor
    """What it computed itself; zeros where it did not train."""
    first: torch.Tensor
    """What it computed itself in the first round."""
    round: int
    part: slice
    """A reducer's part of the vector."""
    noise: torch.Generator
    chunks: Sequence[slice]
    """Elements of each chunk."""
    foresee: formulas.Foresee


@dataclass(frozen=True, kw_only=True, slots=True)
class Attack:
    """How the liars of a run behave; all of them alike."""

    send: Callable[[View], torch.Tensor]
    trains: int = 0
    """First rounds in which a liar trains, too: on its own data."""
    honest_rounds: int = 0
    """First rounds in which it sends what it computed."""
    alike: bool = False
    """They all send the same, made up once."""
    shares_data: bool = False
    """The liars are one peer under several names: they compute one update."""
    spoil: Callable[[Windows], Windows] | None = None
    """Done to the data that a liar trains on."""
    tokens: int | None = None
    """Tokens that it claims; None: the truth."""
    forge: Literal["nan", "inf"] | None = None
    """Values that no codec encodes: put into the bytes."""


def permute_targets(windows: Windows) -> Windows:
    """Every second token y becomes V-1-y, V = 256: half of the targets are wrong for what precedes them.

    Label flipping (Biggio et al. 2012; Fang et al. 2020, section 4.2, l -> L-1-l) for language models, in
    which a target is the next input.
    """
    spoiled = windows.copy()
    spoiled[:, 1::2] = 255 - spoiled[:, 1::2]
    return spoiled


def _own(view: View) -> torch.Tensor:
    return view.own


def _flip(scale: float) -> Attack:
    return Attack(send=lambda view: formulas.sign_flip(view.honest, scale=scale))


def _ipm(strength: float) -> Attack:
    send = partial(formulas.inner_product_manipulation, strength=strength)
    return Attack(send=lambda view: send(view.honest))


def _gaussian(view: View) -> torch.Tensor:
    noise_P = torch.randn(view.own.numel(), generator=view.noise)
    return formulas.gaussian(view.honest, noise_P)


def _tailored(away: Callable[[formulas.Vectors], torch.Tensor]) -> Attack:
    def send(view: View) -> torch.Tensor:
        return formulas.tailored(view.honest, away(view.honest), view.chunks, view.foresee)

    return Attack(send=send, alike=True)


ATTACKS: dict[str, Attack] = {
    "sign-flip": _flip(1.0),
    "sign-flip-10": _flip(10.0),
    "ipm-0.1": _ipm(0.1),
    "ipm-0.5": _ipm(0.5),
    "ipm-2": _ipm(2.0),
    "alie": Attack(send=lambda view: formulas.a_little_is_enough(view.honest)),
    "tailored": _tailored(formulas.sign_flip),
    "tailored-std": _tailored(formulas.deviation),
    "mimic": Attack(send=lambda view: formulas.mimic(view.honest)),
    "label-flip": Attack(send=_own, trains=ALWAYS, spoil=permute_targets),
    "gaussian": Attack(send=_gaussian),
    "zero": Attack(send=lambda view: formulas.zero(view.honest)),
    "nan": Attack(send=lambda view: formulas.mean_of(view.honest), forge="nan"),
    "inf": Attack(send=lambda view: formulas.mean_of(view.honest), forge="inf"),
    "one-part": Attack(send=lambda view: formulas.one_part(view.honest, view.part)),
    "replay": Attack(send=lambda view: view.first, trains=1, honest_rounds=1),
    "slow-drip": Attack(
        send=lambda view: formulas.slow_drip(view.own, view.first, round_=view.round), trains=ALWAYS
    ),
    "weight-inflation": Attack(send=lambda view: formulas.sign_flip(view.honest), tokens=MAX_CLAIM),
    "identical": Attack(send=_own, trains=ALWAYS, shares_data=True),
}
"""Replay: the first contribution again in every round. Weight inflation: a sign flip with the largest claim
of tokens that there is. Tailored: against the mean, or by the standard deviation, as strong in each chunk as
moves the result most. Identical: one peer that takes part under several names."""

Liars = Sequence[SimPeer]

MESSAGES: dict[str, Callable[[Liars, Sequence[SimPeer]], None]] = {
    "lying-reducer": lambda liars, _honest: _each(liars, lie_loudly),
    "equivocating-reducer": lambda liars, _honest: _each(liars, equivocate_loudly),
    "withheld": lambda liars, honest: _each(liars, withhold_from(honest[0].key)),
    "lone-rounds": lambda liars, _honest: _each(liars, desert({peer.key for peer in liars})),
    "chosen-cuts": lambda liars, _honest: _each(liars, count_only({peer.key for peer in liars})),
    "endless-calls": lambda liars, _honest: _each(liars, call_away),
    "false-accusation": lambda liars, honest: _accuse(liars, honest),
}
"""Make liars of the first of some peers, whose nodes have been made. They train and contribute honestly.
Withheld: the first honest peer gets no slices of theirs. Lone rounds: voters certify weakly among themselves,
though a quorum is there. Endless calls: from each attempt to a later one, so that none is finished. Chosen
cuts: leaders count nobody but liars."""


def _each(liars: Liars, villainy: Villainy) -> None:
    for peer in liars:
        assert peer.node is not None
        villainy(peer.node)


def _accuse(liars: Liars, honest: Sequence[SimPeer]) -> None:
    victims = {peer.key: peer.identity for peer in honest}
    for number, peer in enumerate(liars):
        assert peer.node is not None
        Accuser(peer.node, victims, first=2 * number)


NONE = "none"
"""The name of a run without attack: its liars are honest."""
