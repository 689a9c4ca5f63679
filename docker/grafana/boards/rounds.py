"""How rounds go, phase by phase, and what becomes of contributions."""

from boards.panels import NODES, Board, each_minute, each_second, graph, number, quantiles, stacked

BOARD = Board(
    name="rounds",
    title="Rounds and training",
    text="How rounds go, phase by phase, and what becomes of contributions.",
    scope=NODES,
    several=True,
    rows=[
        (
            "Now",
            [
                number("Round", "The highest of the chosen nodes.", "max(talkoot_round{@})"),
                number("Frontier", "The furthest that anybody announces.", "max(talkoot_round_frontier{@})"),
                number(
                    "Group", "Contributions that the last round counted.", "max(talkoot_round_group_size{@})"
                ),
                number(
                    "Median round",
                    "From the time that a round closes to its commit, in the last quarter of an hour.",
                    "histogram_quantile(0.5, sum by (le) "
                    "(rate(talkoot_round_duration_seconds_bucket{@}[15m])))",
                    unit="s",
                ),
                number(
                    "Tries given up",
                    "Share of the tries at a round in the last quarter of an hour.",
                    "avg(instance:talkoot_round_failures_per_round_attempts:ratio_rate15m{@})",
                    unit="percentunit",
                ),
                number(
                    "Own contributions counted",
                    "Of those that were encoded, since the start.",
                    "sum(talkoot_contribution_credits_total{@}) / sum(talkoot_contributions_sent_total{@})",
                    unit="percentunit",
                ),
            ],
        ),
        (
            "Rounds",
            [
                graph(
                    "Round and frontier",
                    "The two lie on each other.",
                    ("talkoot_round{@}", "round, {{instance}}"),
                    ("max(talkoot_round_frontier{@})", "frontier"),
                ),
                graph(
                    "Duration of a round",
                    "From its close to its commit.",
                    *quantiles("talkoot_round_duration_seconds"),
                    unit="s",
                ),
                stacked(
                    "Where the time of rounds goes",
                    "Seconds in each phase, per second.",
                    each_second("talkoot_round_phase_seconds_total", "phase"),
                    unit="s",
                ),
                graph(
                    "Contributions in a round",
                    "As each node saw its last one.",
                    ("talkoot_round_group_size{@}", "{{instance}}"),
                ),
                graph(
                    "Tries a minute",
                    "At rounds, and those that were given up.",
                    ("60 * sum(rate(talkoot_round_attempts_total{@}[$__rate_interval]))", "tries"),
                    each_minute("talkoot_round_failures_total", "reason"),
                ),
                graph(
                    "Rounds fetched instead of made",
                    "A node that was away replays what it missed.",
                    ("60 * sum(rate(talkoot_rounds_skipped_total{@}[$__rate_interval]))", "fetched a minute"),
                    ("60 * sum(rate(talkoot_rounds_total{@}[$__rate_interval]))", "all a minute"),
                ),
            ],
        ),
        (
            "Contributions",
            [
                graph(
                    "Encoded and counted, a minute",
                    "Every contribution ought to be counted.",
                    ("60 * sum(rate(talkoot_contributions_sent_total{@}[$__rate_interval]))", "encoded"),
                    ("60 * sum(rate(talkoot_contribution_credits_total{@}[$__rate_interval]))", "counted"),
                ),
                stacked(
                    "Left out, a minute",
                    "By why.",
                    each_minute("talkoot_contributions_rejected_total", "reason"),
                ),
                graph(
                    "Error of the encoding",
                    "Relative; what is lost comes with a later contribution.",
                    ("talkoot_contribution_error_ratio{@}", "{{instance}}"),
                    unit="percentunit",
                ),
                graph(
                    "Size against the others'",
                    "Norm of the last contribution over the median of its round; near 1.",
                    ("talkoot_update_norm_ratio{@}", "{{instance}}"),
                ),
                graph(
                    "Held-out loss",
                    "Of the outer model; the same on every node in the same round.",
                    ("talkoot_eval_loss{@}", "{{instance}}"),
                ),
                graph(
                    "Training loss",
                    "Of each node on its own data.",
                    ("talkoot_training_loss{@}", "{{instance}}"),
                ),
            ],
        ),
        (
            "Trust",
            [
                graph(
                    "Parts in which the defence counted",
                    "Share of the chunks; where it arms at need a jump says that liars are loud.",
                    ("talkoot_robust_chunks_ratio{@}", "{{instance}}"),
                    unit="percentunit",
                ),
                graph(
                    "Parts of reducers checked",
                    "Wrong must stay 0: one is a proof.",
                    ("sum by (result) (talkoot_audits_total{@})", "{{result}}"),
                ),
                graph(
                    "Contributions judged",
                    "By what they do to the loss.",
                    ("sum by (result) (talkoot_trainer_audits_total{@})", "{{result}}"),
                ),
                graph(
                    "What others judged of ours",
                    "Since the start.",
                    ("sum by (result) (talkoot_own_contribution_verdicts_total{@})", "{{result}}"),
                ),
                graph(
                    "Odd contributions",
                    "Against each peer's own past.",
                    ("sum by (sign) (talkoot_contributions_odd_total{@})", "{{sign}}"),
                ),
                graph(
                    "Catching up",
                    "Times, by why it was done so.",
                    ("sum by (reason) (talkoot_catch_ups_total{@})", "{{reason}}"),
                ),
                stacked(
                    "States that did not fit",
                    "Fetched from peers and refused, since the start.",
                    ("sum by (reason) (talkoot_checkpoint_verification_failures_total{@})", "{{reason}}"),
                ),
            ],
        ),
    ],
)
