"""What the trainer is told of the volunteer's settings, now and after each change."""

from functools import partial
from typing import TYPE_CHECKING

from talkoot.peer.guest.settings import GuestSettings
from talkoot.peer.options import RunOptions
from talkoot.peer.trainer.protocol import Tuning

if TYPE_CHECKING:
    from talkoot.peer.node import Node


def tuning_of(options: RunOptions, settings: GuestSettings) -> Tuning:
    """Where a start was not configured by the table of settings, what it was given fills the gaps."""
    configured = options.configuration is not None
    return Tuning(
        power=settings.power,
        threads=settings.threads or (0 if configured else options.threads),
        nice=settings.nice,
        memory_limit_bytes=settings.gpu_memory_bytes or (0 if configured else options.memory_limit_bytes),
        headroom_bytes=settings.gpu_headroom_bytes,
    )


def begin_tuning(node: "Node") -> None:
    """Let the trainer follow the settings."""
    node.settings.follow(partial(_tune, node))


def _tune(node: "Node", settings: GuestSettings) -> None:
    node.training.tune(tuning_of(node.options, settings))
