"""What comes of audits, in words that metrics count."""

RESULTS = ("helped", "neutral", "harmful")
"""Of one that was finished."""

NO_RESULTS = ("busy", "budget", "data", "memory", "held", "no_slice", "no_trainer", "overtaken", "disk")
"""Why there is no verdict: a round, or something else, wanted the trainer; too little time; nothing held out;
memory is short; it makes no steps; we reduced no part, or do not have all of it; no trainer works; the state
has moved on; the disk refused the slice."""


def result_of(score: int) -> str:
    """One of `RESULTS`."""
    return RESULTS[1 - (score > 0) + (score < 0)]
