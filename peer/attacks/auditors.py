"""Audits of a bench's contributions, as the nodes of a swarm make them: the same slices, losses and scores.

What differs is time: rounds here are a few steps long, so that audits with as many windows as in a real swarm
take more than their share of them.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from talkoot.averaging.rules import Rules
from talkoot.averaging.verdicts import MAX_SCORE
from talkoot.peer.attacks.data import Data
from talkoot.peer.attacks.exchange import Counted
from talkoot.peer.judging.case import Case, dense_case
from talkoot.peer.judging.score import SCALE, score_of, windows_seed
from talkoot.peer.trainer.engine import Engine


@dataclass(frozen=True, slots=True)
class Losses:
    """Of one audit, window by window."""

    before: list[float]
    after: list[float]

    @property
    def score(self) -> int:
        """As in `talkoot.peer.judging.score`; 0 where the model has no loss any more."""
        return score_of(self.before, self.after) or 0


class Auditors:
    """Judges what was counted, with an engine that nobody trains with."""

    def __init__(self, engine: Engine, data: Data, *, rules: Rules, window: int, windows: int) -> None:
        """`window` in tokens, `windows` of them an audit."""
        self._engine, self._data, self._rules = engine, data, rules
        self._window, self._windows = window, windows

    def case(self, counted: Counted, auditor: int, subject: int) -> Case | None:
        """The slice that this auditor reduced of that contribution."""
        value = counted.value
        reducer, key = value.parts[auditor].reducer, value.cut[subject].key
        held = counted.slices[auditor]
        return dense_case(value, held, counted.ledger, self._rules, auditor=reducer, subject=key)

    def score(self, counted: Counted, auditor: int, subject: int) -> int:
        """-1000 to 1000."""
        case = self.case(counted, auditor, subject)
        if case is None:
            return 0
        piece = case.decode()
        if piece is None:
            return -MAX_SCORE
        return self.losses(counted, case, piece.numpy(), scale=SCALE).score

    def losses(
        self, counted: Counted, case: Case, piece: np.ndarray[Any, np.dtype[np.float32]], *, scale: float
    ) -> Losses:
        """Before and after `scale` times the slice."""
        auditor = counted.value.parts[case.start // self._rules.chunk_size].reducer
        seed = windows_seed(case.digest, auditor)
        windows = self._data.drawn(seed, self._windows, self._window)
        flat = counted.theta.numpy().copy()
        with np.errstate(over="ignore", invalid="ignore"), self._engine.elsewhere(flat):
            before = self._engine.window_losses(windows)
            self._engine.move(case.start, piece * np.float32(scale))
            after = self._engine.window_losses(windows)
        return Losses(before, after)
