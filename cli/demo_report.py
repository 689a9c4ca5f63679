"""The demo's summary: figures from what was seen and from the comparison, as JSON and in words."""

from dataclasses import asdict, dataclass, field
from typing import Any

from talkoot.cli.demo_kill import KillPlan
from talkoot.cli.demo_watch import Watch
from talkoot.cli.words import count, duration, loss, size


@dataclass(frozen=True, kw_only=True, slots=True)
class Losses:
    """Held-out losses on the same windows, in nats per token; None where it was not measured."""

    start: float | None = None
    """Of the initial weights."""
    end: float | None = None
    """Of the outer parameters at the end."""
    single: float | None = None
    """Of one worker with the same data, model and optimiser, after `single_steps` steps."""
    single_steps: int = 0
    single_curve: list[tuple[float, float]] = field(default_factory=list)
    """(step, loss) on its way."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """What `--json` writes."""

    peers: int
    seconds: float
    """Time of training together; start-up and comparison are not in it."""
    rounds_committed: int
    """Distinct rounds that any peer committed."""
    rounds_aborted: int
    """Attempts given up, as counted by the peer that gave up most."""
    digests_equal: bool
    """No two peers ever had different digests after the same round (and there was one)."""
    different_rounds: list[int]
    """Rounds where they had."""
    loss_start: float | None
    """Held-out loss of the initial weights."""
    loss_end: float | None
    """Held-out loss of the outer parameters after the last round."""
    loss_single: float | None
    """Held-out loss of a single worker after `steps_single` steps."""
    steps_single: int
    """Mean inner steps of a peer that are in the outer parameters (the certified global step)."""
    steps_per_peer: list[int]
    """Inner steps that each peer made, those after the last round included."""
    tokens: int
    """Tokens that all peers trained on."""
    bytes_sent_per_peer: float
    """Mean bytes that a peer sent for rounds and control."""
    bytes_received_per_peer: float
    state_bytes_sent_per_peer: float
    """Mean bytes that a peer sent to bring others to the present state, apart."""
    data_parallel_bytes_per_peer: float
    """2 (n-1)/n * 4 bytes * parameters * steps: an fp32 ring all-reduce in every step."""
    data_parallel_ratio: float | None
    """That over `bytes_sent_per_peer`."""
    inner_share: float | None
    """Mean share of the trainers' time that went into inner steps."""
    numel: int
    """Parameters of the model."""
    killed: dict[str, Any] | None
    """Which peer was killed in which state, how long it took to train again, the round that counted it."""
    exited: list[str]
    """Peers that ended by themselves."""
    forced: list[str]
    """Peers that did not end when they were asked to."""
    curve: list[dict[str, Any]] = field(default_factory=list)
    """Held-out loss after each round, as a peer measured it on its windows: {round, step, tokens, loss}."""
    curve_single: list[tuple[float, float]] = field(default_factory=list)
    """(step, held-out loss) of the single worker."""

    @property
    def ok(self) -> bool:
        """Whether the demo may end with exit code 0."""
        return self.digests_equal and self.rounds_committed > 0 and not self.exited

    def to_json(self) -> dict[str, Any]:
        """Plain values, for `--json`."""
        return asdict(self)


def data_parallel_bytes(*, peers: int, numel: int, steps: float) -> float:
    """Bytes that one peer sends in an fp32 ring all-reduce of the gradient in each of `steps` steps."""
    return 2 * (peers - 1) / peers * 4 * numel * steps


def make_report(
    watch: Watch,
    losses: Losses,
    *,
    seconds: float,
    kill: KillPlan | None,
    victim: str,
    exited: list[str],
    forced: list[str],
) -> Report:
    """Put the figures together."""
    peers = len(watch.peers)
    numel = int(max((record.last.get("numel") or 0 for record in watch.peers), default=0))
    plain = data_parallel_bytes(peers=peers, numel=numel, steps=watch.mean("steps_total"))
    sent = watch.mean("bytes_sent")
    killed = None
    if kill is not None and kill.killed_at is not None:
        killed = {
            "peer": victim,
            "state": kill.killed_in_state,
            "back_after_s": kill.back_after_s,
            "counted_in_round": kill.counted_in_round,
        }
    return Report(
        peers=peers,
        seconds=round(seconds, 1),
        rounds_committed=watch.rounds_committed,
        rounds_aborted=watch.rounds_aborted,
        digests_equal=watch.digests_equal,
        different_rounds=watch.different_rounds,
        loss_start=losses.start,
        loss_end=losses.end,
        loss_single=losses.single,
        steps_single=losses.single_steps,
        steps_per_peer=[int(record.total("steps_total")) for record in watch.peers],
        tokens=int(sum(record.total("tokens_total") for record in watch.peers)),
        bytes_sent_per_peer=sent,
        bytes_received_per_peer=watch.mean("bytes_received"),
        state_bytes_sent_per_peer=watch.mean("state_bytes_sent"),
        data_parallel_bytes_per_peer=plain,
        data_parallel_ratio=plain / sent if sent > 0 else None,
        inner_share=watch.inner_share,
        numel=numel,
        killed=killed,
        exited=exited,
        forced=forced,
        curve=watch.curve,
        curve_single=losses.single_curve,
    )


def summary_text(report: Report) -> str:
    """The summary as a few aligned lines."""
    rows = [
        ("held-out loss", f"{loss(report.loss_start)} -> {loss(report.loss_end)} nats per token"),
        ("single worker", _single_words(report)),
        ("rounds", f"{report.rounds_committed} committed, {report.rounds_aborted} attempts given up"),
        ("digests", _digest_words(report)),
        ("sent per peer", _bytes_words(report)),
        ("inner steps", _steps_words(report)),
        ("trained", f"{count(report.tokens)} tokens by {report.peers} peers in {duration(report.seconds)}"),
    ]
    if report.killed:
        rows.append(("killed", _killed_words(report.killed)))
    if report.exited:
        rows.append(("ended early", ", ".join(report.exited)))
    if report.forced:
        rows.append(("had to be killed at the end", ", ".join(report.forced)))
    return "\n".join(f"{name:14} {words}" for name, words in rows)


def _single_words(report: Report) -> str:
    if report.loss_single is None or report.loss_end is None:
        return "not measured"
    better = (1 - report.loss_end / report.loss_single) * 100
    words = f"{better:.1f} % lower" if better >= 0 else f"{-better:.1f} % higher"
    return f"{loss(report.loss_single)} after the same {report.steps_single} steps: the swarm's is {words}"


def _digest_words(report: Report) -> str:
    if report.digests_equal:
        return "equal on all peers in every round"
    if not report.different_rounds:
        return "no round to compare"
    return "DIFFERENT in round " + ", ".join(map(str, report.different_rounds))


def _killed_words(killed: dict[str, Any]) -> str:
    back, counted = killed["back_after_s"], killed["counted_in_round"]
    words = f"{killed['peer']} while {killed['state']}; "
    words += f"trained again {back:.0f} s after its restart" if back else "not back when time was up"
    return words if counted is None else f"{words}, counted again in round {counted}"


def _bytes_words(report: Report) -> str:
    ratio = f"{report.data_parallel_ratio:.0f} times less than" if report.data_parallel_ratio else "against"
    state = size(report.state_bytes_sent_per_peer)
    return (
        f"{size(report.bytes_sent_per_peer)}, {ratio} the {size(report.data_parallel_bytes_per_peer)} "
        f"of fp32 data parallel (state transfer apart: {state})"
    )


def _steps_words(report: Report) -> str:
    share = f", {report.inner_share * 100:.0f} % of the time" if report.inner_share is not None else ""
    return f"{', '.join(map(str, report.steps_per_peer))}{share}"
