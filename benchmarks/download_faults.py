"""`benchmarks/download.py --faults`: one download after the other while its sources die, stall and lie."""

import argparse
import random
import shutil
import signal
import sys
from collections.abc import Sequence
from filecmp import cmp
from pathlib import Path
from statistics import median
from typing import Any

from download_rig import Process, Rig, newcomer, rig

from talkoot.peer.generation import FILES
from talkoot.peer.store import OuterStore

Json = dict[str, Any]

ROLES = ("killed", "corrupt", "stopped", "sound")
RATES = {"killed": 20e6, "corrupt": 12e6, "stopped": 12e6, "sound": 12e6}
"""Bytes a second: together more than 400 Mbit/s; the one that is killed is the best."""

MOST_EXTRA = 0.05
"""Bytes above those of the state, as a share of it."""

TRIES = 3
"""How often a run is repeated in which not all four sources took part from the start."""


def fault_runs(folder: Path, digest: bytes, options: argparse.Namespace) -> Json:
    """All runs."""
    rng = random.Random(options.seed)
    runs, repeated = [], 0
    with rig(folder, options.numel, len(ROLES), options.mbit) as made, newcomer(made) as joiner:
        plain = one_run(made, joiner, digest, dict(zip(ROLES, made.sources, strict=True)))
        for number in range(options.runs):
            for _ in range(TRIES):
                result = fault_run(made, joiner, digest, number, rng)
                if result["sources"] == len(ROLES):
                    break
                repeated += 1
            runs.append(result)
            tell(number, result)
    state = plain["bytes"]
    return {
        "runs": runs,
        "repeated": repeated,
        "state_bytes": state,
        "mbit": options.mbit,
        "link_overhead": plain["link_bytes"] / state - 1,
        "plain_s": plain["seconds"],
    }


def fault_run(made: Rig, joiner: Process, digest: bytes, number: int, rng: random.Random) -> Json:
    """One download with all faults."""
    order = rng.sample(made.sources, len(ROLES))
    roles = dict(zip(ROLES, order, strict=True))
    marks = sorted(rng.uniform(0.1, 0.6) for _ in range(2))
    kinds = rng.sample(("killed", "stopped"), 2)
    strikes = list(zip(marks, kinds, strict=True))
    victim = roles["killed"]
    index = made.sources.index(victim)
    made.sources[index] = made.start("serve", index + 1)  # for the next run
    try:
        result = one_run(
            made,
            joiner,
            digest,
            roles,
            strikes=strikes,
            sound_chunks=rng.randrange(6),
            with_p2pd=number % 2 == 0,
        )
    finally:
        victim.end()
    blamed = [role for role, source in roles.items() if source.contact[0] in result["blamed"]]
    result |= {"blamed": blamed, "marks": dict(zip(kinds, marks, strict=True))}
    roles["stopped"].signal(signal.SIGCONT)
    made.sources[index].meet()
    return result


def one_run(
    made: Rig,
    joiner: Process,
    digest: bytes,
    roles: dict[str, Process],
    *,
    strikes: Sequence[tuple[float, str]] = (),
    sound_chunks: int | None = None,
    with_p2pd: bool = True,
) -> Json:
    """One download into an empty folder; strikes are (share of the state, role).

    The corrupt source gives so many sound chunks first; None: it gives no others.
    """
    for role, source in roles.items():
        after = sound_chunks if role == "corrupt" else None
        source.say({"rate": RATES[role], "corrupt_after": after})
    into = made.folder / "new"
    contacts = sorted(source.contact for source in roles.values())
    joiner.say({"into": str(into), "sources": contacts, "marks": [share for share, _ in strikes]})
    struck = []
    while "mark" in (told := joiner.hear()):
        role = strikes[told["mark"]][1]
        if role == "killed":
            roles[role].signal(signal.SIGKILL)
        else:
            roles[role].signal(signal.SIGSTOP, with_p2pd=with_p2pd)
        struck.append(role)
    whole = told["ok"] and told["digest"] == digest.hex() and same_files(made, into)
    shutil.rmtree(into)
    return told | {"whole": whole, "struck": struck}


def same_files(made: Rig, into: Path) -> bool:
    """Whether the vectors on the newcomer's disk are those that were served, byte for byte."""
    ours, theirs = (
        OuterStore.open(path / "outer", made.numel).current for path in (made.folder / "source", into)
    )
    return all(cmp(ours.path / name, theirs.path / name, shallow=False) for name in FILES)


def extra(result: Json) -> float:
    """Bytes received above those of the state, as a share of it."""
    return float(result["received_bytes"] / result["bytes"] - 1) if "bytes" in result else 0.0


def is_good(result: Json) -> bool:
    """Whether all that was wanted is so."""
    return bool(
        result["whole"]
        and result["blamed"] == ["corrupt"]
        and extra(result) <= MOST_EXTRA
        and sorted(result["struck"]) == ["killed", "stopped"]
        and result["sources"] == len(ROLES)
    )


def tell(number: int, result: Json) -> None:
    """One line about a run on stderr."""
    words = "whole" if result["whole"] else "NOT WHOLE"
    print(
        f"{number:4}  {words}, {result['seconds']:5.2f} s, {100 * extra(result):.2f} % more bytes, "
        f"blamed: {', '.join(result['blamed']) or 'nobody'}, struck: {', '.join(result['struck'])}, "
        f"{result['sources']} sources{'' if is_good(result) else '   <- NOT GOOD'}",
        file=sys.stderr,
        flush=True,
    )


def report_faults(found: Json) -> bool:
    """Print the figures; whether all runs were good."""
    runs = found["runs"]
    good = sum(map(is_good, runs))
    seconds = sorted(run["seconds"] for run in runs)
    extras = sorted(extra(run) for run in runs)
    whole = sum(run["whole"] for run in runs)
    print(f"{good} of {len(runs)} good, {whole} whole; {found['repeated']} repeated")
    print(
        f"{found['state_bytes'] / 1e6:.0f} MB: {median(seconds):.1f} s (median), at most {seconds[-1]:.1f}; "
        f"{found['plain_s']:.1f} s without a fault"
    )
    print(f"{100 * median(extras):.2f} % more bytes than the state (median; most {100 * extras[-1]:.2f} %)")
    if found["link_overhead"] > -1:
        on_link = sorted(run["link_bytes"] / found["state_bytes"] - 1 for run in runs)
        print(
            f"on the link {100 * median(on_link):.1f} % more, most {100 * on_link[-1]:.1f} %; "
            f"without a fault {100 * found['link_overhead']:.1f} %, mostly headers"
        )
    return good == len(runs)
