"""A relay as a program: the parts put together, signals, one exit status."""

import contextlib
import fcntl
import logging
import signal
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import trio

from talkoot.dht.errors import ConfigError
from talkoot.dht.identity import Identity
from talkoot.dht.outside import host
from talkoot.dht.relay import web
from talkoot.dht.relay.admission import Admission
from talkoot.dht.relay.config import Agent, RelayConfig, RelayLimits, SwarmName
from talkoot.dht.relay.link import first_of
from talkoot.dht.relay.service import Relay
from talkoot.dht.relay.serving import Announcer, ServedSwarm
from talkoot.dht.relay.tally import Tally

logger = logging.getLogger(__name__)

KEY_FILE = "relay.key"
LOCK_FILE = "relay.lock"


@dataclass(frozen=True, kw_only=True, slots=True)
class Program:
    """What to run."""

    identity: Identity
    config: RelayConfig
    limits: RelayLimits
    swarms: Sequence[SwarmName]
    anybody: bool
    """Reservations for whoever asks."""
    agent: Agent
    http: tuple[str, int] | None
    """Host and port of the pages; None: there are none."""
    pages: Callable[[Tally], web.Pages]


@contextlib.contextmanager
def state_of(folder: Path) -> Iterator[Identity]:
    """The relay's key, in a folder that no other relay uses meanwhile. Raises ConfigError."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = (folder / LOCK_FILE).open("wb")
    except OSError as error:
        raise ConfigError(f"cannot use the state directory {folder}: {error.strerror}") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise ConfigError(f"another relay uses the state directory {folder}") from None
        yield Identity.load_or_create(folder / KEY_FILE)


def run(program: Program, started: Callable[[Relay, int | None], None]) -> None:
    """Relay until SIGTERM or SIGINT. `started` is told of the relay and of the port of its pages.

    Raises ConfigError when a port cannot be had.
    """
    try:
        trio.run(_main, program, started)
    except BaseExceptionGroup as group:
        wrong = first_of(group, ConfigError)
        if wrong is None:
            raise
        raise wrong from None


async def _main(program: Program, started: Callable[[Relay, int | None], None]) -> None:
    tally = Tally()
    async with contextlib.AsyncExitStack() as stack:
        swarms: list[ServedSwarm] = []
        if program.swarms:
            outside = await stack.enter_async_context(host.running(Identity.generate()))
            swarms = [ServedSwarm(outside, name) for name in program.swarms]
        admission = Admission(swarms, anybody=program.anybody)
        relay = Relay(program.identity, program.config, program.limits, admission, tally)
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            async with trio.open_nursery() as nursery:
                await _start(program, nursery, relay, started)
                announcer = Announcer(swarms, program.identity, relay.addresses, program.agent, tally)
                nursery.start_soon(admission.run)
                nursery.start_soon(announcer.run)
                await anext(signals)
                logger.info(
                    "stopping: no new reservations, circuits end within %.0f s", program.limits.drain_s
                )
                await _stop(relay, announcer, signals)
                nursery.cancel_scope.cancel()


async def _start(
    program: Program, nursery: trio.Nursery, relay: Relay, started: Callable[[Relay, int | None], None]
) -> None:
    port: int | None = None
    try:
        await nursery.start(relay.run)
    except OSError as error:
        raise ConfigError(
            f"cannot listen on port {program.config.port}: {error.strerror or error}"
        ) from error
    if program.http is not None:
        pages = program.pages(relay.tally)
        try:
            port = await nursery.start(web.serve, *program.http, pages)
        except OSError as error:
            where = f"{program.http[0]}:{program.http[1]}"
            raise ConfigError(f"cannot serve pages on {where}: {error.strerror or error}") from error
    started(relay, port)


async def _stop(relay: Relay, announcer: Announcer, signals: AsyncIterator[int]) -> None:
    """Say goodbye and let circuits end; a second signal ends it at once."""
    async with trio.open_nursery() as nursery:

        async def at_once() -> None:
            await anext(signals)
            nursery.cancel_scope.cancel()

        nursery.start_soon(at_once)
        async with trio.open_nursery() as both:
            both.start_soon(announcer.farewell)
            both.start_soon(relay.stop)
        nursery.cancel_scope.cancel()
