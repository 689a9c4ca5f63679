"""A newcomer downloads an outer state over libp2p from several sources, each a process of its own.

    python benchmarks/download.py [--numel 125000000] [--sources 4] [--mbit 400] [--dir DIR] [--json FILE]
    python benchmarks/download.py --faults [--runs 50] [--numel 10000000] [--mbit 400] [--seed 0]

`--mbit` puts every process into a network namespace of its own (root, iproute2) and shapes the newcomer's
link with a token bucket; 0: loopback as it is. All sources serve one directory, so the disk holds the state
twice. Prints megabytes a second, the share of the link, what was wasted, and how much anonymous memory
(RssAnon) the newcomer and the sources took above what they had when their network had started, p2pd apart.

`--faults`: four sources of limited speed, whose roles change with each run. The fastest is killed with its
p2pd in mid-download, another one answers with chunks in which a bit is wrong, a third one is stopped
(SIGSTOP, with its p2pd in every other run), the fourth is sound. The exit code is 1 unless every download was
whole, blamed exactly the corrupt source and received at most 5 % more bytes than the state has.
"""

import argparse
import json
import shutil
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any, NoReturn

import torch
from download_faults import fault_runs, report_faults
from download_rig import make_state, newcomer, rig

NUMEL = 125_000_000
NUMEL_FAULTS = 10_000_000


def measure(folder: Path, digest: bytes, options: argparse.Namespace) -> dict[str, Any]:
    """One download."""
    with rig(folder, options.numel, options.sources, options.mbit) as made, newcomer(made) as joiner:
        contacts = [source.contact for source in made.sources]
        joiner.say({"into": str(folder / "new"), "sources": contacts, "marks": []})
        found = joiner.hear()
        for source in made.sources:
            source.say({"report": True})
        serving = [source.hear() for source in made.sources]
    if not found["ok"] or found["digest"] != digest.hex():
        raise SystemExit("nobody gave the state")
    found["share_of_link"] = (
        8e-6 * found["bytes"] / found["download_s"] / options.mbit if options.mbit else None
    )
    return found | {"serving": serving, "numel": options.numel, "mbit": options.mbit}


def report(found: dict[str, Any]) -> None:
    """Print it."""
    rate = found["bytes"] / found["download_s"]
    share = f", {100 * found['share_of_link']:.1f} % of the link" if found["share_of_link"] else ""
    print(f"{found['bytes'] / 1e6:,.0f} MB from {found['sources']} sources in {found['download_s']:.1f} s")
    print(f"{rate / 1e6:.1f} MB/s of state{share}; {found['seconds']:.1f} s with survey and install")
    if found["link_bytes"]:
        print(f"{found['link_bytes'] / 1e6:,.0f} MB on the link with all headers")
    print(f"{found['wasted_bytes'] / 1e6:.1f} MB wasted")
    rows = [("newcomer", found)] + [(f"source {n}", told) for n, told in enumerate(found["serving"], 1)]
    for name, told in rows:
        gave = f"; gave {told['sent_bytes'] / 1e6:,.0f} MB" if "sent_bytes" in told else ""
        print(
            f"{name}: {told['anonymous_bytes'] / 1e6:.0f} MB of memory above idle, "
            f"its p2pd {told['p2pd_bytes'] / 1e6:.0f} MB{gave}"
        )
    if found["rejected"]:
        print(f"rejected: {found['rejected']}")


def interrupted(_number: int, _frame: object) -> NoReturn:
    """End as after Ctrl-C: processes, namespaces and folders go."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)  # a second one does not break off the clearing up
    raise KeyboardInterrupt


def main() -> int:
    """Measure and print; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--numel", type=int, default=None)
    parser.add_argument("--sources", type=int, default=4)
    parser.add_argument("--mbit", type=float, default=400.0)
    parser.add_argument("--faults", action="store_true")
    parser.add_argument("--runs", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--dir", type=Path, default=None)
    parser.add_argument("--json", type=Path, default=None)
    options = parser.parse_args()
    options.numel = options.numel or (NUMEL_FAULTS if options.faults else NUMEL)
    torch.set_num_threads(1)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, interrupted)
    folder = Path(tempfile.mkdtemp(prefix="talkoot-download-", dir=options.dir))
    try:
        digest = make_state(folder / "source", options.numel)
        if options.faults:
            found = fault_runs(folder, digest, options)
            good = report_faults(found)
        else:
            found = measure(folder, digest, options)
            report(found)
            good = True
    finally:
        shutil.rmtree(folder)
    if options.json is not None:
        options.json.write_text(json.dumps(found) + "\n")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
