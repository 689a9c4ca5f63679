"""Coverage-guided fuzzing of parsers: `python tests/fuzz_parsers.py [TARGET ...] [libFuzzer options]`.

Without a target all of `fuzz_targets`, one after the other. Needs atheris. Keeps what it finds in
`build/fuzz/TARGET`, and leaves an input that is not refused as it should be in `build/fuzz`. FUZZ_SECONDS
says how long each target is tried.
"""

import logging
import os
import random
import sys
import warnings

import fuzz_loop
from samples import changed

warnings.simplefilter("ignore")  # of modules that are looked at while they are imported
with fuzz_loop.atheris.instrument_imports(include=["talkoot.averaging", "talkoot.dht", "talkoot.peer"]):
    from fuzz_targets import TARGETS

MAX_LEN = 20_000


def begin(name: str, options: list[str]) -> None:
    """Does not return."""
    target = TARGETS[name]
    seeds = [seed for seed in target.seeds() if len(seed) <= MAX_LEN]
    for seed in seeds:
        target.try_(seed)

    def mutate(data: bytes, max_size: int, number: int) -> bytes:
        rng = random.Random(number)
        made = rng.choice(seeds) if seeds and rng.random() < 0.5 else data
        for _ in range(rng.randrange(1, 5)):
            made = changed(made, target.form, rng)[:max_size]
        return made

    logging.disable(logging.CRITICAL)
    sys.stderr = open(os.devnull, "w")  # noqa: SIM115 - what parsers say to people, not libFuzzer
    fuzz_loop.fuzz(name, options, examine=target.try_, mutate=mutate, max_len=MAX_LEN)


if __name__ == "__main__":
    sys.exit(fuzz_loop.main(TARGETS, begin))
