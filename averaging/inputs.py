"""What a part is aggregated from: slices of the cut's contributions, with the factors that the ledger gives.

Reducers and those who check them use the same function, so that they cannot differ.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from talkoot.averaging.certificate import Contribution
from talkoot.averaging.contribution import Entry
from talkoot.averaging.ledger import Ledger
from talkoot.averaging.rules import Rules
from talkoot.averaging.source import Source, source_of
from talkoot.averaging.succession import weigh

Bytes = bytes | memoryview


@dataclass(frozen=True, slots=True)
class Input:
    """One contribution's slice of a part."""

    contribution: Contribution
    entries: Sequence[Entry]
    """Index entries of the part's chunks."""
    chunks: Sequence[Bytes]
    """Encoded chunks of the part, in order."""


def sources_of(inputs: Sequence[Input], ledger: Ledger, rules: Rules) -> list[Source]:
    """The slices of a cut, in its order, as `aggregate_part` takes them; `ledger`: before the round."""
    weighed = weigh([item.contribution for item in inputs], ledger, rules)
    return [source_of(known, item.chunks, item.entries) for item, known in zip(inputs, weighed, strict=True)]
