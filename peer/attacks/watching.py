"""What the peers' histories say about the contributions of a run: who is suspected, and from which round
on."""

import torch

from talkoot.averaging import watch
from talkoot.averaging.gram import Gram
from talkoot.peer.attacks.exchange import Counted, number_of


class Watch:
    """Follows all peers of a run, as one that holds all contributions whole. A copy flags both peers of the
    pair: which one copied is not known here."""

    def __init__(self) -> None:
        self._watch = watch.Watch()
        self._before_P: torch.Tensor | None = None
        self.rounds = 0
        self.suspected: dict[int, int] = {}
        """Peers, and the round, counted from 1, in which each was first suspected."""

    def see(self, counted: Counted) -> None:
        """Take in a round."""
        turns = self._watch.see(
            self.rounds,
            counted.value.cut,
            counting=[weight > 0 for weight in counted.weights],
            held=held_of(counted, self._before_P),
        )
        self.rounds += 1
        self._before_P = counted.aggregate
        for turn in turns:
            if turn.record.suspected:
                self.suspected.setdefault(number_of(turn.key), self.rounds)


def held_of(counted: Counted, before_P: torch.Tensor | None) -> watch.Held:
    """All of a round's contributions, and the aggregate of the round before."""
    products = Gram(len(counted.decoded) + 1)
    products.add([*counted.decoded, torch.zeros_like(counted.aggregate) if before_P is None else before_P])
    gram = products.matrix()
    unsound = {i for i, item in enumerate(counted.value.cut) if item.norm2 > 0 and gram[i][i] == 0}
    return watch.Held(rows=range(len(counted.value.cut)), gram=gram, unsound=frozenset(unsound))
