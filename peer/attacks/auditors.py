"""Audits in a run of the bench, as the nodes of a swarm make them: the same draws, slices, losses and scores.

What differs is time: rounds here are a few steps long, so that audits on as many windows as in a real swarm
take more than their share of them. Liars audit, too, and say the worst of all but each other.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from talkoot.averaging.ledger import Ledger
from talkoot.averaging.reputation import subject_of
from talkoot.averaging.rules import Rules
from talkoot.averaging.verdicts import MAX_SCORE, Verdict
from talkoot.peer.attacks.exchange import Counted, number_of
from talkoot.peer.judging.case import Case, dense_case
from talkoot.peer.judging.score import SCALE, score_of, windows_seed

Losses = tuple[list[float], list[float]]
"""Before and after, window by window."""


@dataclass(frozen=True, slots=True)
class Auditors:
    """All voters of a run."""

    paired: Callable[..., Losses]
    """See `talkoot.peer.attacks.swarm.Worker.paired`."""
    rules: Rules
    liars: frozenset[int]
    windows: int

    def verdicts(self, counted: Counted, ledger: Ledger) -> list[Verdict]:
        """On the round that was just counted; `ledger` is the one after it. Unsigned."""
        found = []
        for part in counted.value.parts:
            auditor = part.reducer
            subject = subject_of(auditor, ledger, counted.value.digest, self.rules)
            if subject is not None:
                found.append(Verdict(auditor, subject, self._say(counted, auditor, subject)))
        return found

    def _say(self, counted: Counted, auditor: bytes, subject: bytes) -> int:
        if number_of(auditor) in self.liars:
            return MAX_SCORE if number_of(subject) in self.liars else -MAX_SCORE
        case = self.case(counted, auditor, subject)
        piece_P = case.decode()
        if piece_P is None:
            return -MAX_SCORE
        return score_of(*self.losses(counted, case, auditor, torch.mul(piece_P, SCALE))) or 0

    def case(self, counted: Counted, auditor: bytes, subject: bytes) -> Case:
        """The slice that this auditor reduced of that contribution."""
        place = next(n for n, part in enumerate(counted.value.parts) if part.reducer == auditor)
        held = counted.slices[place]
        case = dense_case(counted.value, held, counted.ledger, self.rules, auditor=auditor, subject=subject)
        assert case is not None
        return case

    def losses(self, counted: Counted, case: Case, auditor: bytes, step_P: torch.Tensor) -> Losses:
        """Without and with a step along the slice."""
        seed = windows_seed(case.digest, auditor)
        return self.paired(counted.theta, case.start, step_P, seed=seed, windows=self.windows)
