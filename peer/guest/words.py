"""The state of a node and the reason for it: one word of a closed list each, the same ones everywhere.

What else there is to say of a reason (which program runs, until when) is its detail, free text for people.
"""

from typing import Literal, get_args

State = Literal["starting", "syncing", "training", "exchanging", "observing", "paused", "draining", "failed"]
"""`observing` is the `training` of a node that only keeps and serves the state."""

STATES: tuple[State, ...] = get_args(State)

Reason = Literal[
    "disk",
    "user",
    "schedule",
    "quota",
    "metered",
    "battery",
    "exclusive_app",
    "other_gpu_use",
    "user_active",
    "temperature",
    "memory",
    "nothing_to_do",
]
"""Why a node is paused; of several the first one here is shown.

`disk`: it refuses, or is full. `user`: somebody said so. `schedule`: outside the hours that were given.
`quota`: the month's bytes are used up. `metered`: the network costs by volume. `battery`: no mains.
`exclusive_app`: a listed program or a game runs. `other_gpu_use`: another process takes GPU memory.
`user_active`: somebody uses the computer. `temperature`: a device is too hot. `memory`: too little is left.
`nothing_to_do`: the swarm has not enough peers to begin, or has ended.
"""

REASONS: tuple[Reason, ...] = get_args(Reason)

SILENT: frozenset[Reason] = frozenset({"disk", "quota", "metered"})
"""Reasons for which rounds in progress are left at once: for the others their exchange is finished first."""

LOADED: frozenset[Reason] = frozenset({"disk", "nothing_to_do"})
"""Reasons for which the trainer's process stays: nobody waits for its memory, and it goes on sooner."""

COSTLY: frozenset[Reason] = frozenset({"quota", "metered"})
"""Reasons for which no state is served either."""

BETWEEN: frozenset[Reason] = frozenset({"nothing_to_do"})
"""Reasons for which a node stays in its rounds: it is the swarm that has to go on."""
