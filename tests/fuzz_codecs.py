"""Coverage-guided fuzzing of codecs: `python tests/fuzz_codecs.py [KIND ...] [libFuzzer options]`.

Without a kind all of them, one after the other. Needs atheris. Starts from `tests/testdata/corpus/KIND`,
keeps what it finds in `build/fuzz/KIND`, and leaves an input that breaks a promise in `build/fuzz`.
FUZZ_SECONDS says how long each kind is tried.
"""

import random
import sys
from pathlib import Path

import fuzz_loop

with fuzz_loop.atheris.instrument_imports(include=["talkoot.compression"]):
    import codec_fuzz

    from talkoot.compression import codec

SEEDS = Path(__file__).parent / "testdata" / "corpus"


def begin(kind: str, options: list[str]) -> None:
    """Does not return."""

    def mutate(data: bytes, max_size: int, seed: int) -> bytes:
        return codec_fuzz.mutate(kind, data, max_size, random.Random(seed))

    fuzz_loop.fuzz(
        kind,
        options,
        examine=lambda data: codec_fuzz.examine(kind, data),
        mutate=mutate,
        max_len=4300,
        seeds=[SEEDS / kind],
    )


if __name__ == "__main__":
    sys.exit(fuzz_loop.main(codec.KINDS, begin))
