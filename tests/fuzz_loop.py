"""Fuzzing guided by coverage: processes of so many runs each, for as long as was asked for. Needs atheris."""

import os
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

try:
    import atheris
except ImportError:
    print("no atheris for this system, so decoders are not fuzzed")
    sys.exit(0)

__all__ = ["atheris", "fuzz", "main"]

FOUND = Path(__file__).parent.parent / "build" / "fuzz"
RUNS = 100_000
"""Runs of one process: in each, what atheris adds to the code that it watches loses about 6 KB."""

Mutate = Callable[[bytes, int, int], bytes]
"""(input, longest length, seed) -> another input."""


def fuzz(
    kind: str,
    options: list[str],
    *,
    examine: Callable[[bytes], object],
    mutate: Mutate,
    max_len: int,
    seeds: Sequence[Path] = (),
) -> None:
    """Does not return; for a process of its own."""
    own = FOUND / kind
    own.mkdir(parents=True, exist_ok=True)
    folders = [str(folder) for folder in (own, *seeds) if folder.is_dir()]
    limits = [f"-max_len={max_len}", "-timeout=30", "-rss_limit_mb=2048", f"-artifact_prefix={FOUND / kind}-"]

    def changed(data: bytes, max_size: int, seed: int) -> bytes:
        """Half of the time libFuzzer's own changes, half of the time ours."""
        if seed % 2:
            mutated: bytes = atheris.Mutate(data, max_size)
            return mutated
        return mutate(bytes(data), max_size, seed)

    atheris.Setup(
        [sys.argv[0], *limits, *options, *folders],
        lambda data: examine(data) and None,
        custom_mutator=changed,
    )
    atheris.Fuzz()


def main(kinds: Iterable[str], begin: Callable[[str, list[str]], None]) -> int:
    """What a fuzzing program does with its command line; `begin` fuzzes one kind and does not return."""
    asked = [argument for argument in sys.argv[1:] if not argument.startswith("-")]
    options = [argument for argument in sys.argv[1:] if argument.startswith("-")]
    seconds = float(os.environ.get("FUZZ_SECONDS", "60"))
    failed = [kind for kind in asked or kinds if _spend(kind, seconds, options, begin)]
    print("found something in: " + ", ".join(failed) if failed else "found nothing")
    return int(bool(failed))


def _spend(kind: str, seconds: float, options: list[str], begin: Callable[[str, list[str]], None]) -> int:
    """Fuzz in processes of so many runs; the status of the first that fails, or 0."""
    print(f"== {kind}", flush=True)
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) >= 1.0:
        child = os.fork()
        if not child:
            begin(kind, [f"-max_total_time={int(left)}", f"-runs={RUNS}", *options])
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if status:
            return status
    return 0
