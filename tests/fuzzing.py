"""How many examples a property test tries, and which.

`make test` tries the same ones every time, so that a change is judged by what it changed. `make fuzz` tries
`TALKOOT_FUZZ` times as many, new ones each time, and prints the failing example, which becomes a test.
"""

import os

from hypothesis import settings

FACTOR = int(os.environ.get("TALKOOT_FUZZ", "0"))


def examples(number: int) -> settings:
    """Settings of a property test that tries so many examples in `make test`."""
    return settings(max_examples=number * max(1, FACTOR), deadline=None, derandomize=FACTOR == 0)
