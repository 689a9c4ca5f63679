"""Coverage-guided fuzzing of decoders: `python tests/fuzz_codecs.py [KIND ...] [libFuzzer options]`.

Without a kind all of them, one after the other. Needs atheris. Starts from `tests/testdata/corpus/KIND`,
keeps what it finds in `build/fuzz/KIND`, and leaves an input that breaks a promise in `build/fuzz`.
FUZZ_SECONDS says how long each kind is tried.
"""

import os
import random
import subprocess
import sys
import time
from pathlib import Path

try:
    import atheris
except ImportError:
    print("no atheris for this system, so decoders are not fuzzed")
    sys.exit(0)

with atheris.instrument_imports(include=["talkoot.compression"]):
    import codec_fuzz

    from talkoot.compression import codec

ROOT = Path(__file__).parent.parent
FOUND = ROOT / "build" / "fuzz"
SEEDS = ROOT / "tests" / "testdata" / "corpus"
SLICE = "--slice"
RUNS = 100_000
"""Runs of one process: in each, what atheris adds to the code that it watches loses about 6 KB."""


def fuzz(kind: str, options: list[str]) -> None:
    """Does not return."""
    own = FOUND / kind
    own.mkdir(parents=True, exist_ok=True)
    folders = [str(folder) for folder in (own, SEEDS / kind) if folder.is_dir()]
    limits = ["-max_len=4300", "-timeout=30", "-rss_limit_mb=2048", f"-artifact_prefix={FOUND / kind}-"]
    atheris.Setup(
        [sys.argv[0], *limits, *options, *folders],
        lambda data: codec_fuzz.examine(kind, data) and None,
        custom_mutator=lambda data, max_size, seed: mutate(kind, bytes(data), max_size, seed),
    )
    atheris.Fuzz()


def mutate(kind: str, data: bytes, max_size: int, seed: int) -> bytes:
    """Half of the time libFuzzer's own changes, half of the time ours."""
    if seed % 2:
        mutated: bytes = atheris.Mutate(data, max_size)
        return mutated
    return codec_fuzz.mutate(kind, data, max_size, random.Random(seed))


def spend(kind: str, seconds: float, options: list[str]) -> int:
    """Fuzz in processes of so many runs; the status of the first that fails, or 0."""
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) >= 1.0:
        limits = [f"-max_total_time={int(left)}", f"-runs={RUNS}"]
        done = subprocess.run([sys.executable, __file__, SLICE, kind, *limits, *options], check=False)
        if done.returncode:
            return done.returncode
    return 0


def main() -> int:
    if sys.argv[1:2] == [SLICE]:
        fuzz(sys.argv[2], sys.argv[3:])
    kinds = [argument for argument in sys.argv[1:] if not argument.startswith("-")]
    options = [argument for argument in sys.argv[1:] if argument.startswith("-")]
    seconds = float(os.environ.get("FUZZ_SECONDS", "60"))
    failed = [kind for kind in kinds or codec.KINDS if spend(kind, seconds, options)]
    print("found something in: " + ", ".join(failed) if failed else "found nothing")
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
