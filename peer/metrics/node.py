"""The node itself: what it is, what it does, how it fares, what it takes of its machine."""

from talkoot.peer.disk import WORDS as DISK_FAULTS
from talkoot.peer.guest.words import REASONS, STATES
from talkoot.peer.metrics.family import TRAINERS, Family, Label, counter, gauge, histogram
from talkoot.peer.metrics.words import LEVELS, PARTS

MAX_GPUS = 2
"""GPUs of one trainer that are shown; it uses one."""

LAG_BUCKETS_S = (0.005, 0.02, 0.05, 0.2, 1.0)
CPU_BUCKETS_S = (0.005, 0.02, 0.05, 0.5)

_VERSION = r"[0-9A-Za-z.+_-]{1,32}"

_VERSIONS = (
    Label("version", pattern=_VERSION, example="0.1.0"),
    Label("python", pattern=_VERSION, example="3.12.4"),
    Label("torch", pattern=_VERSION, example="2.6.0"),
    Label("backend", pattern=r"[a-z]{1,16}(:[0-9]{1,3})?", example="cuda"),
    Label("protocol", pattern=r"[0-9]{1,5}", example="1"),
)
_GPU = Label("gpu", pattern=r"[0-9]{1,2}", most=MAX_GPUS, example="0")

NODE = (
    gauge("build_info", "Versions of what runs here; always 1.", *_VERSIONS, absent=True),
    gauge(
        "node_info",
        "The name of the swarm and the node's role in it; always 1.",
        Label("run", pattern=r"[^\x00-\x1f\x7f]{1,64}", example="demo"),
        Label("role", pattern="full|client|observer", example="full"),
        absent=True,
    ),
    gauge("node_state", "1 for the state that the node is in, 0 for the others.", Label("state", STATES)),
    gauge("node_paused", "1 for the reason for which the node is paused now.", Label("reason", REASONS)),
    gauge(
        "node_clock_offset_seconds",
        "How far the clocks of the other peers are ahead of ours (their median).",
        unit="seconds",
        unknown=True,
    ),
    histogram(
        "event_loop_lag_seconds",
        "How late each heartbeat on the event loop was.",
        LAG_BUCKETS_S,
        unit="seconds",
    ),
    histogram(
        "event_loop_callback_cpu_seconds",
        "CPU time of the loop's thread between two heartbeats: an upper bound of one callback's.",
        CPU_BUCKETS_S,
        unit="seconds",
    ),
    counter("log_messages", "Log lines written.", Label("level", LEVELS), unit="lines"),
    counter(
        "restarts",
        "Parts of the node that died or hung, and were started again.",
        Label("part", (*PARTS, "directory")),
        unit="restarts",
    ),
    counter(
        "disk_faults",
        "Times that the disk made the node pause.",
        Label("reason", tuple(DISK_FAULTS)),
        unit="faults",
    ),
    gauge("memory_bytes", "Resident memory of the node's processes.", Label("part", PARTS), unit="bytes"),
    gauge("disk_used_bytes", "What the files in the state directory take up.", unit="bytes", unknown=True),
    gauge(
        "disk_limit_bytes",
        "What they may take up: the disk limit, or else what they do and what is free on that disk.",
        unit="bytes",
        unknown=True,
    ),
)

RESOURCES = (
    gauge(
        "duty_cycle_ratio",
        "Share of the last ten minutes, or since it went on, in which the trainer worked.",
        unit="ratio",
        unknown=True,
        roles=TRAINERS,
    ),
    gauge("duty_cycle_limit_ratio", "What that may be: the power level.", unit="ratio", roles=TRAINERS),
    gauge(
        "gpu_memory_used_bytes",
        "Memory of the GPU that is in use, by the trainer and others.",
        _GPU,
        unit="bytes",
        absent=True,
        roles=TRAINERS,
    ),
    gauge(
        "gpu_memory_limit_bytes",
        "Memory of the GPU that the trainer may use.",
        _GPU,
        unit="bytes",
        absent=True,
        roles=TRAINERS,
    ),
    gauge(
        "gpu_utilization_ratio",
        "Share of the time in which the GPU was busy.",
        _GPU,
        unit="ratio",
        absent=True,
        roles=TRAINERS,
    ),
    gauge(
        "gpu_temperature_celsius",
        "Temperature of the GPU.",
        _GPU,
        unit="celsius",
        absent=True,
        roles=TRAINERS,
    ),
    counter(
        "gpu_energy_joules",
        "Energy that the GPU took since the trainer began.",
        _GPU,
        unit="joules",
        absent=True,
        roles=TRAINERS,
    ),
)

STANDARD = (
    *(
        Family(name=f"process_{name}", kind="gauge", text=text, unit=unit, absent=True)
        for name, text, unit in (
            ("virtual_memory_bytes", "Virtual memory of the daemon.", "bytes"),
            ("resident_memory_bytes", "Resident memory of the daemon.", "bytes"),
            ("start_time_seconds", "When the daemon began, in Unix time.", "seconds"),
            ("open_fds", "Open files of the daemon.", "files"),
            ("max_fds", "Files that the daemon may have open.", "files"),
        )
    ),
    Family(
        name="process_cpu_seconds_total",
        kind="counter",
        text="CPU time of the daemon.",
        unit="seconds",
        absent=True,
    ),
    Family(
        name="python_info",
        kind="gauge",
        text="Which Python runs here; always 1.",
        labels=tuple(
            Label(name, pattern=r"[0-9A-Za-z.+_-]{0,32}", example=example)
            for name, example in (
                ("implementation", "CPython"),
                ("major", "3"),
                ("minor", "12"),
                ("patchlevel", "4"),
                ("version", "3.12.4"),
            )
        ),
        absent=True,
    ),
)
"""What prometheus_client exports by itself, on Linux."""
