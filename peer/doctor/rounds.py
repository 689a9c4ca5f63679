"""How long a round would take on this machine and line, against what the swarm's manifest allows. Pure.

The arithmetic is the rounds' own: a round closes when the swarm has made H steps a peer; who made fewer than
H/8 is not counted; contributions are there by the deadline of the exchange, or left out.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from talkoot.averaging.deadlines import Pace, limit
from talkoot.averaging.rules import Timing
from talkoot.compression import codec
from talkoot.peer.doctor.report import Check
from talkoot.peer.manifest import Manifest
from talkoot.peer.rules_of import first_codecs

LEAST_SHARE = 1 / 8
"""Of H: fewer steps do not count."""


@dataclass(frozen=True, slots=True)
class Need:
    """Bytes that a client moves in a round."""

    up: int
    down: int


def need_of(manifest: Manifest, peers: int) -> Need:
    """Contribution and aggregate; in a sparse exchange the others' contributions. Raises ConfigError."""
    contribution, aggregate = first_codecs(manifest)
    numel = manifest.model.numel
    up = codec.get(contribution).encoded_size(numel)
    if manifest.round.exchange == "sparse":
        return Need(up, up * max(1, peers))
    return Need(up, codec.get(aggregate).encoded_size(numel))


def deadline_s(manifest: Manifest) -> float:
    """For the exchange of a first attempt, as a peer that has measured nothing has it."""
    round_ = manifest.round
    timing = Timing(form_s=round_.form_s, exchange_s=round_.exchange_s, certify_s=round_.certify_s)
    return limit(timing, Pace(), "exchange", 0).seconds


def interval_s(manifest: Manifest, speeds: Sequence[float], step_s: float) -> float:
    """Seconds until the swarm, with this peer, has made H steps a peer. `speeds`: the others', steps/s."""
    trainers = [speed for speed in speeds if speed > 0]
    wanted = manifest.outer.inner_steps * (len(trainers) + 1)
    together = sum(trainers) + 1 / step_s
    return min(max(wanted / together, manifest.round.min_interval_s), manifest.round.max_interval_s)


def training(manifest: Manifest, speeds: Sequence[float], step_s: float | None, *, real: bool) -> Check:
    """Whether this machine makes enough steps between two rounds. `real`: a swarm's manifest."""
    if step_s is None:
        return Check(name="steps", answer="unknown", words="no step was timed")
    inner = manifest.outer.inner_steps
    interval = interval_s(manifest, speeds, step_s)
    made = interval / step_s
    words = f"{step_s:.3g} s a step; about {made:.0f} of {inner} steps a round of {interval:.0f} s"
    measured = {"step_s": step_s, "interval_s": interval, "steps": made, "needed": inner * LEAST_SHARE}
    if made >= inner * LEAST_SHARE or not real:
        return Check(name="steps", answer="yes", words=words, measured=measured)
    return Check(
        name="steps",
        answer="no",
        words=f"{words}, and {inner * LEAST_SHARE:.0f} are needed to be counted",
        fix="take a faster device (--device cuda), end other programs, or join a swarm with a smaller model",
        weight="slow",
        cause="slow_device",
        measured=measured,
    )


def line(manifest: Manifest, peers: int, upload: float | None, download: float | None) -> list[Check]:
    """Upload and download against what an exchange needs before its deadline."""
    need, allowed = need_of(manifest, peers), deadline_s(manifest)
    return [
        _direction("upload", "uplink", need.up, upload, allowed),
        _direction("download", "downlink", need.down, download, allowed),
    ]


def _direction(name: str, link: str, num_bytes: int, rate: float | None, allowed: float) -> Check:
    if rate is None:
        return Check(name=name, answer="unknown", words="no peer had time to measure it")
    seconds = num_bytes / rate
    words = (
        f"{8 * rate / 1e6:.3g} Mbit/s to actual peers; {num_bytes / 1e6:.3g} MB a round take {seconds:.3g} s "
        f"of {allowed:.0f} s"
    )
    measured = {"bytes_per_s": rate, "round_bytes": num_bytes, "seconds": seconds, "deadline_s": allowed}
    if name == "download":
        words = words.replace("to actual", "from actual")
    if seconds <= allowed:
        return Check(name=name, answer="yes", words=words, measured=measured)
    return Check(
        name=name,
        answer="no",
        words=words,
        fix="use a cable, end other traffic, or join a swarm with a smaller model or a stronger codec",
        weight="slow",
        cause=f"slow_{link}",
        measured=measured,
    )


def whole(manifest: Manifest, steps: Check, links: Sequence[Check]) -> Check:
    """Seconds of a whole round."""
    interval = steps.measured.get("interval_s")
    exchange = [each.measured.get("seconds") for each in links]
    if interval is None or None in exchange:
        return Check(name="round", answer="unknown", words="not everything was measured")
    seconds = max(value for value in exchange if value is not None)
    slow = any(check.answer == "no" for check in (steps, *links))
    return Check(
        name="round",
        answer="no" if slow else "yes",
        words=f"about {interval:.0f} s of training, then {seconds:.3g} s of exchange "
        f"({deadline_s(manifest):.0f} s allowed)",
        weight="note",
        measured={"training_s": interval, "exchange_s": seconds, "deadline_s": deadline_s(manifest)},
    )
