"""What the peers' histories say about the contributions of a run: who is suspected, and from which round
on."""

from collections.abc import Sequence

import torch

from talkoot.averaging.gram import Gram
from talkoot.averaging.history import History, copies, cosines, looks
from talkoot.peer.attacks.exchange import Counted


class Watch:
    """Follows all peers of a run. A copy flags both peers of the pair: which one copied is not known here."""

    def __init__(self, num_peers: int) -> None:
        self._histories = [History()] * num_peers
        self._before_P: torch.Tensor | None = None
        self.rounds = 0
        self.suspected: dict[int, int] = {}
        """Peers, and the round, counted from 1, in which each was first suspected."""

    def see(self, counted: Counted) -> None:
        """Take in a round."""
        self.rounds += 1
        before_P = self._before_P
        self._before_P = counted.aggregate
        if before_P is None:
            before_P = torch.zeros_like(counted.aggregate)
        products = Gram(len(counted.decoded) + 1)
        products.add([*counted.decoded, before_P])
        gram = products.matrix()
        copied = {i for pair in copies([row[:-1] for row in cosines(gram)[:-1]]) for i in pair}
        self._learn(gram, copied)

    def _learn(self, gram: Sequence[list[float]], copied: set[int]) -> None:
        seen = looks(list(gram))
        self._histories = [
            history.seen(look, copied=i in copied)
            for i, (history, look) in enumerate(zip(self._histories, seen, strict=True))
        ]
        for i, history in enumerate(self._histories):
            if history.suspect:
                self.suspected.setdefault(i, self.rounds)
