"""Inner steps and rounds."""

from talkoot.averaging.reasons import SIGNS
from talkoot.peer.judging.results import NO_RESULTS as NO_AUDIT_RESULTS
from talkoot.peer.judging.results import RESULTS as AUDIT_RESULTS
from talkoot.peer.metrics.family import TRAINERS, Label, counter, gauge, histogram
from talkoot.peer.metrics.words import CONTRIBUTION_REJECTIONS, PHASES, ROUND_FAILURES

ROUND_BUCKETS_S = (2.5, 10.0, 30.0, 60.0, 120.0, 300.0, 1800.0)

TRAINING = (
    counter("inner_steps", "Inner steps made.", unit="steps", roles=TRAINERS),
    counter("trained_tokens", "Tokens trained on.", unit="tokens", roles=TRAINERS),
    gauge(
        "training_loss",
        "Loss of the last inner steps, in nats a token.",
        unit="nats",
        unknown=True,
        roles=TRAINERS,
    ),
    gauge(
        "eval_loss",
        "Loss of the outer parameters on documents that nobody trains on, in nats a token.",
        Label("set", ("held_out",)),
        unit="nats",
        unknown=True,
        roles=TRAINERS,
    ),
    gauge(
        "gradient_norm",
        "Norm of the last gradient before it was clipped.",
        unit="norm",
        unknown=True,
        roles=TRAINERS,
    ),
    gauge(
        "learning_rate",
        "Learning rate of the last inner step.",
        unit="rate",
        unknown=True,
        roles=TRAINERS,
    ),
    gauge(
        "inner_step_time_ratio",
        "Share of the trainer's time, since it began, that was spent in inner steps.",
        unit="ratio",
        unknown=True,
        roles=TRAINERS,
    ),
)

ROUNDS = (
    gauge("round", "Rounds in this node's outer state.", unit="rounds"),
    gauge("round_frontier", "Most rounds that any known peer announces.", unit="rounds"),
    counter("rounds", "Rounds committed, those included that were fetched.", unit="rounds"),
    counter("rounds_skipped", "Rounds that were fetched from peers and not taken part in.", unit="rounds"),
    counter(
        "round_attempts", "Tries at a round, each when it ended: with a commit, or given up.", unit="attempts"
    ),
    counter(
        "round_failures",
        "Tries at a round that were given up, by the phase or by why.",
        Label("reason", ROUND_FAILURES),
        unit="attempts",
    ),
    histogram(
        "round_duration_seconds",
        "From the time that a round closes to its commit.",
        ROUND_BUCKETS_S,
        unit="seconds",
    ),
    counter(
        "round_phase_seconds",
        "Time spent in each phase of the rounds that were committed.",
        Label("phase", PHASES),
        unit="seconds",
    ),
    gauge("round_group_size", "Contributions that the last round counted.", unit="peers"),
    counter(
        "contributions_sent",
        "Own contributions that were encoded for a round.",
        unit="contributions",
        roles=TRAINERS,
    ),
    counter(
        "contribution_credits",
        "Own contributions that a committed round counted.",
        unit="contributions",
        roles=TRAINERS,
    ),
    counter(
        "contributions_rejected",
        "Contributions, our own or others', that were left out of a round.",
        Label("reason", CONTRIBUTION_REJECTIONS),
        unit="contributions",
    ),
    gauge(
        "contribution_error_ratio",
        "Relative error (L2) of the last contribution as it was encoded.",
        unit="ratio",
        unknown=True,
        roles=TRAINERS,
    ),
    gauge(
        "update_norm_ratio",
        "Norm of our last contribution in relation to the median of those that its round counted.",
        unit="ratio",
        unknown=True,
        roles=TRAINERS,
    ),
)

AUDITS = (
    gauge(
        "robust_chunks_ratio",
        "Share of the chunks last reduced here that counted by the robust rule, not as a plain mean.",
        unit="ratio",
        unknown=True,
    ),
    counter(
        "audits",
        "Parts of other reducers that were computed again.",
        Label("result", ("right", "wrong", "unavailable")),
        unit="audits",
    ),
    counter(
        "contributions_odd",
        "Contributions of others that differ from their peer's past, or are as good as copies.",
        Label("sign", SIGNS),
        unit="contributions",
    ),
    gauge("peers_suspected", "Peers whose contributions were odd most of the time lately.", unit="peers"),
    counter(
        "trainer_audits",
        "Contributions of others that were judged by what they do to the loss, or why one was not.",
        Label("result", (*AUDIT_RESULTS, *NO_AUDIT_RESULTS)),
        unit="audits",
        roles=TRAINERS,
    ),
    counter("trainer_audit_seconds", "Time spent on that.", unit="seconds", roles=TRAINERS),
    counter(
        "own_contribution_verdicts",
        "What the audits of others said of our contributions.",
        Label("result", AUDIT_RESULTS),
        unit="verdicts",
        roles=TRAINERS,
    ),
)
