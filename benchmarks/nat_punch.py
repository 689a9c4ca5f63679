"""How soon two volunteers behind home routers have a connection of their own, trial by trial.

Both places have an endpoint-independent mapping (`cone`) unless told otherwise. Each trial starts two new
nodes, on a port that the routers have not seen; as soon as both have a reservation at the relay the first
dials the second through it. Three open nodes are there besides: with the relay four that tell a node under
which address it appears. Needs root, `ip` and `nft`.

    python benchmarks/nat_punch.py [--trials 20] [--kinds cone,cone] [--limit 15] [--strict] [--json FILE]
"""

import argparse
import json
import logging
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from nat_lab import Kind, why_not
from nat_nodes import Nodes

GIVE_UP_S = 40.0
RESERVED_S = 30.0


def trial(nodes: Nodes, number: int) -> dict[str, Any]:
    """Two new nodes meet."""
    nodes.start(nodes.names, nodes.bootstrap, port_offset=number)
    began = time.monotonic()
    nodes.await_reservations(nodes.names, RESERVED_S)
    reserved_s = time.monotonic() - began
    result = nodes.dial(*nodes.names, pieces=4, settle_s=GIVE_UP_S)
    return {"trial": number, "reserved_s": reserved_s} | result


def main() -> int:
    """Measure and print; returns the exit code: 1 when a trial was not punched in time."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--kinds", default="cone,cone", help="two of " + ", ".join(Kind))
    parser.add_argument("--limit", type=float, default=15.0)
    parser.add_argument("--strict", action="store_true", help="routers that follow TCP's windows")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if reason := why_not():
        sys.stderr.write(f"no laboratory here: {reason}\n")
        return 1
    logging.disable(logging.CRITICAL)
    one, other = (Kind(word) for word in options.kinds.split(","))
    results = []
    with (
        tempfile.TemporaryDirectory() as folder,
        Nodes({"one": one, "other": other}, Path(folder), strict=options.strict) as nodes,
    ):
        for number in range(1, options.trials + 1):
            results.append(trial(nodes, number))
            sys.stdout.write(f"{json.dumps(results[-1])}\n")
            sys.stdout.flush()
    punched = [each for each in results if each["path"] == "punched" and each["reached_s"] <= options.limit]
    times = sorted(each["reached_s"] for each in punched)
    sys.stdout.write(f"{len(punched)} of {len(results)} punched within {options.limit:.0f} s of the dial")
    if times:
        sys.stdout.write(f": median {times[len(times) // 2]:.1f} s, at most {times[-1]:.1f} s")
    sys.stdout.write("\n")
    if options.json is not None:
        options.json.write_text(json.dumps(results, indent=1) + "\n")
    return 0 if len(punched) == len(results) else 1


if __name__ == "__main__":
    sys.exit(main())
