"""What it costs that a contribution and the residual are on the disk before the contribution is sent.

    python benchmarks/residual.py [--numel 25000000] [--rounds 5] [--dir DIR] [--json FILE]

Commits rounds of a swarm of one peer and prints the median seconds of encoding, of saving (durable), of the
rest of the round (the outer step, its state made durable on the same disk, its record), and of taking the
residual up again as a start does.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch
from state_kills import Subject, commit_round, encode

from talkoot.peer.residual import Residual


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--numel", type=int, default=25_000_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--dir", type=Path, help="a folder on the disk to try; by default a temporary one")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    taken: dict[str, list[float]] = {name: [] for name in ("encode", "save", "rest of the round", "take up")}

    def timed(name: str, call: Callable[[], object]) -> None:
        began = time.perf_counter()
        call()
        taken[name].append(time.perf_counter() - began)

    with tempfile.TemporaryDirectory(dir=options.dir) as folder:
        subject = Subject(Path(folder) / "swarm", options.numel)
        holdings, books = subject.open()
        for _ in range(options.rounds):
            units = torch.randn(options.numel)
            timed("encode", lambda units=units: encode(holdings, books, units))  # type: ignore[misc]
            timed("save", books.save)
            timed("rest of the round", lambda: commit_round(holdings, books))
            timed("take up", lambda: Residual(subject.paths, subject.rules))
        holdings.close()
    result = {name: median(seconds) for name, seconds in taken.items()}
    for name, seconds in result.items():
        print(f"{name:18} {seconds:7.3f} s")
    if options.json:
        options.json.write_text(json.dumps({"numel": options.numel, "seconds": result}, indent=2) + "\n")


if __name__ == "__main__":
    main()
