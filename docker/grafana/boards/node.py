"""One node: what it does, how it trains, what it takes of its machine."""

from boards.panels import NODES, Board, graph, number, quantiles, stacked

BOARD = Board(
    name="node",
    title="Node",
    text=(
        "One node: what it does, how it trains, what it takes of its machine. Another peer shows as much as "
        "it shares (`talkoot run --share-metrics all`)."
    ),
    scope=NODES,
    rows=[
        (
            "Now",
            [
                number("State", "What it does.", "talkoot_node_state{@} == 1", name="{{state}}"),
                number("Round", "In its outer state.", "talkoot_round{@}"),
                number(
                    "Rounds behind",
                    "The furthest that any peer announces, less its own.",
                    "talkoot_round_frontier{@} - talkoot_round{@}",
                ),
                number("Loss", "Of the last inner steps.", "talkoot_training_loss{@}", decimals=3),
                number("Tokens a second", "Over five minutes.", "instance:talkoot_trained_tokens:rate5m{@}"),
                number("Up for", "Since its start.", "time() - process_start_time_seconds{@}", unit="s"),
            ],
        ),
        (
            "Training",
            [
                graph(
                    "Loss",
                    "Nats a token. Held-out is the outer model's, on documents that nobody trains on.",
                    ("talkoot_training_loss{@}", "training"),
                    ("talkoot_eval_loss{@}", "held-out"),
                ),
                graph(
                    "Inner steps a second",
                    "The machine's pace.",
                    ("rate(talkoot_inner_steps_total{@}[$__rate_interval])", "steps"),
                ),
                graph(
                    "Gradient norm",
                    "Before it is clipped.",
                    ("talkoot_gradient_norm{@}", "norm"),
                ),
                graph("Learning rate", "Of the last inner step.", ("talkoot_learning_rate{@}", "rate")),
                graph(
                    "Share of the time in inner steps",
                    "Near 1: the exchange costs nothing.",
                    ("talkoot_inner_step_time_ratio{@}", "since its start"),
                    ("talkoot_duty_cycle_ratio{@}", "lately"),
                    unit="percentunit",
                ),
                stacked(
                    "State",
                    "1 for what it does.",
                    ("talkoot_node_state{@}", "{{state}}"),
                    ("talkoot_node_paused{@}", "paused: {{reason}}"),
                ),
            ],
        ),
        (
            "Machine",
            [
                stacked(
                    "Memory", "Resident, by process.", ("talkoot_memory_bytes{@}", "{{part}}"), unit="bytes"
                ),
                graph(
                    "CPU of the daemon",
                    "Without its trainer; 1 is one core.",
                    ("rate(process_cpu_seconds_total{@}[$__rate_interval])", "cores"),
                    unit="percentunit",
                ),
                graph(
                    "Disk",
                    "What the state directory takes, and what it may take up.",
                    ("talkoot_disk_used_bytes{@}", "used"),
                    ("talkoot_disk_limit_bytes{@}", "limit"),
                    unit="bytes",
                ),
                graph(
                    "Lateness of the event loop",
                    "Above 50 ms something blocks it.",
                    *quantiles("talkoot_event_loop_lag_seconds"),
                    unit="s",
                ),
                graph(
                    "Bytes a second",
                    "To and from all peers.",
                    ("instance:talkoot_network_receive_bytes:rate5m{@}", "received"),
                    ("instance:talkoot_network_transmit_bytes:rate5m{@}", "sent"),
                    unit="Bps",
                ),
                graph(
                    "Open files",
                    "Its own and how many it may have.",
                    ("process_open_fds{@}", "open"),
                    ("process_max_fds{@}", "limit"),
                ),
                graph(
                    "CPU of one callback",
                    "An upper bound, of the event loop's thread between two heartbeats.",
                    *quantiles("talkoot_event_loop_callback_cpu_seconds"),
                    unit="s",
                ),
            ],
        ),
        (
            "GPU",
            [
                graph(
                    "GPU memory",
                    "In use, by the trainer and others.",
                    ("talkoot_gpu_memory_used_bytes{@}", "used, {{gpu}}"),
                    ("talkoot_gpu_memory_limit_bytes{@}", "limit, {{gpu}}"),
                    unit="bytes",
                ),
                graph(
                    "GPU in use",
                    "Share of the time.",
                    ("talkoot_gpu_utilization_ratio{@}", "{{gpu}}"),
                    unit="percentunit",
                ),
                graph(
                    "GPU power",
                    "Average over the shown interval.",
                    ("rate(talkoot_gpu_energy_joules_total{@}[$__rate_interval])", "{{gpu}}"),
                    unit="watt",
                ),
                graph(
                    "GPU temperature",
                    "As the driver says.",
                    ("talkoot_gpu_temperature_celsius{@}", "{{gpu}}"),
                    unit="celsius",
                ),
            ],
        ),
        (
            "Trouble",
            [
                stacked(
                    "Warnings and errors, a minute",
                    "Each is a line in the log.",
                    (
                        '60 * rate(talkoot_log_messages_total{@, level=~"warning|error|critical"}'
                        "[$__rate_interval])",
                        "{{level}}",
                    ),
                ),
                graph(
                    "Restarts of parts",
                    "Since the start of the daemon.",
                    ("talkoot_restarts_total{@}", "{{part}}"),
                ),
                graph(
                    "Faults of the disk",
                    "Since the start of the daemon. Each paused the node until it was over.",
                    ("talkoot_disk_faults_total{@}", "{{reason}}"),
                ),
                graph(
                    "Checkpoints",
                    "Tries to write one, and those that failed, since the start.",
                    ("talkoot_checkpoint_saves_total{@}", "tries"),
                    ("talkoot_checkpoint_save_failures_total{@}", "failed"),
                ),
                graph(
                    "Age of the newest checkpoint",
                    "It grows until the next is due.",
                    ("time() - talkoot_checkpoint_last_success_timestamp_seconds{@}", "age"),
                    unit="s",
                ),
                graph(
                    "Size of the newest checkpoint",
                    "On the disk.",
                    ("talkoot_checkpoint_size_bytes{@}", "size"),
                    unit="bytes",
                ),
            ],
        ),
    ],
)
