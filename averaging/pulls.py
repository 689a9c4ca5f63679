"""Whose word has moved us on to another attempt of this round: a voter's may do so once.

Who is ahead calls the others, so that all meet in one attempt before their own deadlines have passed. A voter
that lies could call from one attempt to the next, and none would ever be finished. So each has one word a
round that ends an attempt of ours; after that only deadlines move us, which double and so bring all together.
With f liars at most f attempts of a round are cut off. Where none may lie (fewer than four voters) every word
counts.
"""

from talkoot.averaging.messages import MessageError
from talkoot.averaging.quorum import max_faulty


class Pulls:
    """Counts for one round."""

    def __init__(self, num_voters: int) -> None:
        self._limited = max_faulty(num_voters) > 0
        self._used: set[bytes] = set()

    def use(self, voter: bytes) -> None:
        """We are about to follow its word. Raises MessageError when it had one."""
        if self._limited and voter in self._used:
            raise MessageError("too_often", "it has moved us on before in this round")
        self._used.add(voter)
