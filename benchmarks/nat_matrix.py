"""Who reaches whom in the laboratory of address translation: by which path, after how long, at what rate.

A node (`talkoot.dht.host` with p2pd) in each kind of place, a second one of the kinds that matter most, three
open ones that they start from, and a relay (`talkoot relay`). Each dials each, sends `--pieces` MiB and waits
up to `--settle` seconds for a connection of its own where it began through a relay. Those that come later in
the list dial in a second laboratory, because routers remember. Needs root, `ip` and `nft`.

    python benchmarks/nat_matrix.py [--only open,cone,...] [--pieces 16] [--settle 15] [--json FILE]
"""

import argparse
import json
import logging
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from nat_lab import Kind, why_not
from nat_nodes import Nodes

PLACES = {
    "open": Kind.OPEN,
    "full-cone": Kind.FULL_CONE,
    "cone": Kind.CONE,
    "cone-2": Kind.CONE,
    "symmetric": Kind.SYMMETRIC,
    "symmetric-2": Kind.SYMMETRIC,
    "double": Kind.DOUBLE,
    "no-udp": Kind.NO_UDP,
    "ipv6": Kind.IPV6,
    "hairpin": Kind.HAIRPIN,
    "hairpin-2": Kind.HAIRPIN,
}
RESERVED_S = 30.0
"""For the nodes that are not open to have a reservation."""

Json = dict[str, Any]


def measure(names: Sequence[str], *, forwards: bool, pieces: int, settle_s: float) -> list[Json]:
    """One laboratory: all pairs of one direction, one after the other."""
    results = []
    with (
        tempfile.TemporaryDirectory() as folder,
        Nodes({name: PLACES[name] for name in names}, Path(folder)) as nodes,
    ):
        nodes.await_reservations([name for name in names if name not in ("open", "ipv6")], RESERVED_S)
        order = list(names) if forwards else list(reversed(names))
        for index, one in enumerate(order):
            for other in order[index + 1 :]:
                found = nodes.dial(one, other, pieces=pieces, settle_s=settle_s)
                results.append({"from": one, "to": other} | found)
                sys.stdout.write(line_of(results[-1]))
                sys.stdout.flush()
    return results


def line_of(result: Json) -> str:
    """One pair."""
    head = f"{result['from']:>12} to {result['to']:<12} {result['path']:<12}"
    if "why" in result:
        return f"{head} {result['why']}\n"
    return (
        f"{head} first byte {result['first_s']:6.2f} s, so since {result['reached_s']:6.2f} s, "
        f"{result['mb_s']:6.1f} MB/s\n"
    )


def table(names: Sequence[str], results: Sequence[Json]) -> str:
    """The matrix, as Markdown: rows dial columns."""
    cells = {(result["from"], result["to"]): result for result in results}
    lines = ["| | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
    for one in names:
        row = [_cell(cells.get((one, other))) for other in names]
        lines.append(f"| {one} | " + " | ".join(row) + " |")
    return "\n".join(lines) + "\n"


def _cell(result: Json | None) -> str:
    if result is None:
        return ""
    return result["path"] if "why" in result else f"{result['path']} {result['reached_s']:.1f}"


def main() -> int:
    """Measure and print; returns the exit code: 1 when somebody did not reach somebody."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", help="places, separated by commas")
    parser.add_argument("--pieces", type=int, default=16)
    parser.add_argument("--settle", type=float, default=15.0)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if reason := why_not():
        sys.stderr.write(f"no laboratory here: {reason}\n")
        return 1
    logging.disable(logging.CRITICAL)
    names = options.only.split(",") if options.only else list(PLACES)
    if unknown := [name for name in names if name not in PLACES]:
        sys.stderr.write(f"unknown places: {', '.join(unknown)}; there are {', '.join(PLACES)}\n")
        return 2
    began = time.monotonic()
    results = []
    for forwards in (True, False):
        results += measure(names, forwards=forwards, pieces=options.pieces, settle_s=options.settle)
    sys.stdout.write("\n" + table(names, results))
    unreachable = [result for result in results if result["path"] == "unreachable"]
    sys.stdout.write(
        f"{len(results) - len(unreachable)} of {len(results)} reached, in {time.monotonic() - began:.0f} s\n"
    )
    if options.json is not None:
        options.json.write_text(json.dumps(results, indent=1) + "\n")
    return 1 if unreachable else 0


if __name__ == "__main__":
    sys.exit(main())
