"""The swarm as a whole: is it alive, does it learn, who falls behind."""

from boards.panels import SWARM, Board, bars, each_minute, graph, number, stacked

BOARD = Board(
    name="swarm",
    title="Swarm",
    text="All nodes of a swarm: is it alive, does it learn, who falls behind.",
    scope=SWARM,
    rows=[
        (
            "Now",
            [
                number("Nodes that answer", "Of those that the observer lists.", "sum(swarm:up:sum{@})"),
                number(
                    "Round", "The highest that any node has committed.", "max(swarm:talkoot_round:max{@})"
                ),
                number(
                    "Rounds between first and last",
                    "0 or 1 when all is well; a node more than 2 behind raises an alert.",
                    "max(swarm:talkoot_round:max{@} - swarm:talkoot_round:min{@})",
                ),
                number(
                    "Held-out loss",
                    "Nats a token, on documents that nobody trains on; the median of the nodes.",
                    "avg(swarm:talkoot_eval_loss:median{@})",
                    decimals=3,
                ),
                number(
                    "Tokens a second",
                    "Trained by all nodes together, over five minutes.",
                    "sum(swarm:talkoot_trained_tokens:rate5m{@})",
                ),
                number(
                    "Alerts",
                    "That fire now; docs/monitoring.md says what to do about each.",
                    'count(ALERTS{@, alertstate="firing"}) or vector(0)',
                ),
            ],
        ),
        (
            "Learning",
            [
                graph(
                    "Loss",
                    "It falls, fast at first. Held-out far above training: the swarm learns by heart.",
                    ("min(talkoot_training_loss{@} > 0)", "training, lowest"),
                    ("avg(swarm:talkoot_training_loss:median{@})", "training, median"),
                    ("max(talkoot_training_loss{@} > 0)", "training, highest"),
                    ("avg(swarm:talkoot_eval_loss:median{@})", "held-out, median"),
                ),
                bars(
                    "Loss by node",
                    "One far above the others has other data, or is ill.",
                    ("sort_desc(talkoot_training_loss{@} > 0)", "{{instance}}"),
                ),
                stacked(
                    "Tokens a second by node",
                    "Who does the work.",
                    ("instance:talkoot_trained_tokens:rate5m{@}", "{{instance}}"),
                ),
            ],
        ),
        (
            "Rounds",
            [
                graph(
                    "Rounds of each node",
                    "Lines lie on each other; one that stays flat is stuck.",
                    ("talkoot_round{@}", "{{instance}}"),
                ),
                graph(
                    "Contributions that a round counts",
                    "As many as peers train, less those that were late.",
                    ("max(talkoot_round_group_size{@})", "most"),
                    ("min(talkoot_round_group_size{@})", "fewest"),
                ),
                graph(
                    "Rounds an hour",
                    "By the node that commits most.",
                    ("3600 * max(rate(talkoot_rounds_total{@}[$__rate_interval]))", "rounds"),
                ),
                stacked(
                    "Tries that were given up, a minute",
                    "By the phase in which they were. A few are no harm: a later try takes over.",
                    each_minute("talkoot_round_failures_total", "reason"),
                ),
                stacked(
                    "Contributions left out, a minute",
                    "As each node counts them.",
                    each_minute("talkoot_contributions_rejected_total", "reason"),
                ),
                stacked(
                    "Bytes sent a second",
                    "All nodes together that share all their metrics.",
                    ("sum(swarm:talkoot_network_transmit_bytes:rate5m{@})", "all"),
                    unit="Bps",
                ),
            ],
        ),
        (
            "Nodes",
            [
                stacked(
                    "Nodes by state",
                    "Training nearly all the time, with a little exchanging.",
                    ("sum by (state) (talkoot_node_state{@})", "{{state}}"),
                ),
                graph(
                    "Nodes that answer",
                    "What the observer reaches of what it lists.",
                    ("sum(up{@})", "answer"),
                    ("count(up{@})", "listed"),
                ),
                graph(
                    "Inner steps a second",
                    "Of all nodes together.",
                    ("sum(swarm:talkoot_inner_steps:rate5m{@})", "steps"),
                ),
                graph(
                    "Seconds for one scrape",
                    "Through the observer; a slow link shows here.",
                    ("scrape_duration_seconds{@}", "{{instance}}"),
                    unit="s",
                ),
            ],
        ),
    ],
)
