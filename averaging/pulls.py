"""Whose word has moved us on to another attempt of this round: a voter's may do so a few times.

Who is ahead calls the others, so that all meet in one attempt before their own deadlines have passed. A voter
that lies could call from one attempt to the next, and none would ever be finished. So each has few words a
round that end an attempt of ours; after that only deadlines move us, which double and so bring all together.
With f liars at most 4 f attempts of a round are cut off. Where none may lie (fewer than four voters) every
word counts.
"""

from talkoot.averaging.messages import MessageError
from talkoot.averaging.quorum import max_faulty

WORDS = 4
"""With one, peers whose messages went in one direction only did not meet again, in one of 800 seeds."""


class Pulls:
    """Counts for one round."""

    def __init__(self, num_voters: int) -> None:
        self._limited = max_faulty(num_voters) > 0
        self._used: dict[bytes, int] = {}

    def use(self, voter: bytes) -> None:
        """We are about to follow its word. Raises MessageError when it had its `WORDS`."""
        if self._limited and self._used.get(voter, 0) >= WORDS:
            raise MessageError("too_often", "it has moved us on before in this round")
        self._used[voter] = self._used.get(voter, 0) + 1
