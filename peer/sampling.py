"""A short text from the latest round, for the page: made by a process of its own that gives way to others.

Whoever asks needs no token (see `talkoot.peer.api`), so all of it is bounded: one at a time, seldom, briefly,
on one thread at the lowest priority, never on the GPU, and only where there is memory to spare.
"""

import asyncio
import os
import sys
from pathlib import Path
from typing import Annotated

import msgspec
import psutil
from msgspec import Meta

from talkoot.dht.child import child
from talkoot.peer import clock

MAX_PROMPT_CHARS = 200
MAX_TOKENS = 64
"""Tokens of a sample."""

MAX_ANSWER_BYTES = 64 * 1024
"""Longest answer of the process."""

PAUSE_S = 5.0
"""Shortest time from the end of one sample to the beginning of the next."""

WORK_S = 45.0
"""Time after which the process gives what it has by then."""

LIMIT_S = 90.0
"""Time after which it is killed."""

SPARE_BYTES = 1 << 30
"""Memory that must be left when the process has the model."""

COPIES = 3
"""How many times the size of the model the process needs."""

MODULE = "talkoot.peer.sample_worker"


class SampleOrder(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Body of a request for a sample."""

    prompt: Annotated[str, Meta(max_length=MAX_PROMPT_CHARS)] = ""
    """What the text begins with; empty: as a document begins."""


class SampleJob(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the process is told on its standard input."""

    state_dir: str
    prompt: str
    max_tokens: int
    seconds: float
    seed: int


class Sample(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the process answers on its standard output."""

    round: int | None = None
    """Committed rounds of the model that it comes from."""
    prompt: str = ""
    text: str = ""
    error: str = ""
    """Why there is none, in one line; the rest is empty then."""


class BusyError(Exception):
    """Not now: come again in `wait_s` seconds."""

    def __init__(self, wait_s: float) -> None:
        super().__init__("a sample is being made, or was a moment ago: try again in a few seconds")
        self.wait_s = wait_s


class Sampler:
    """Makes samples of the model in one state directory."""

    def __init__(self, state_dir: Path, command: tuple[str, ...] = (sys.executable, "-m", MODULE)) -> None:
        self._state_dir = state_dir
        self._command = command
        self._not_before_s = 0.0
        self._busy = False
        self._made = 0

    async def sample(self, order: SampleOrder, *, numel: int) -> Sample:
        """Text that follows the prompt, by a model of so many parameters.

        Raises BusyError, or ValueError where this machine or this model does not give one.
        """
        now = clock.now()
        if self._busy or now < self._not_before_s:
            raise BusyError(LIMIT_S if self._busy else self._not_before_s - now)
        if psutil.virtual_memory().available < SPARE_BYTES + COPIES * 4 * numel:
            raise ValueError("this machine has too little free memory for a sample beside the training")
        self._busy = True
        try:
            made = await self._ask(order.prompt)
        finally:
            self._busy = False
            self._not_before_s = clock.now() + PAUSE_S
        if made.error:
            raise ValueError(made.error)
        return made

    async def _ask(self, prompt: str) -> Sample:
        self._made += 1
        job = SampleJob(str(self._state_dir), prompt, MAX_TOKENS, WORK_S, seed=self._made)
        starting = child(
            *self._command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            limit=MAX_ANSWER_BYTES,
            env=os.environ | {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"},
            start_new_session=True,  # Ctrl-C in the terminal is ours
        )
        try:
            async with starting as process, asyncio.timeout(LIMIT_S):
                out, _ = await process.communicate(msgspec.json.encode(job))
            return msgspec.json.decode(out[:MAX_ANSWER_BYTES], type=Sample)
        except TimeoutError as error:
            raise ValueError(f"no sample within {LIMIT_S:.0f} s: this machine is busy") from error
        except OSError as error:
            raise ValueError(f"no process for a sample: {error.strerror or error}") from error
        except ValueError as error:
            raise ValueError("the process that makes samples ended without one") from error
