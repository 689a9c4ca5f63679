"""Passing bytes on between the two streams of a circuit, until one of them ends or it may pass no more."""

from collections.abc import Callable

import trio

from talkoot.dht.errors import RemoteError
from talkoot.dht.relay.book import Circuit, CutOff, End
from talkoot.dht.relay.config import RelayLimits
from talkoot.dht.relay.link import Stream, first_of

PIECE_BYTES = 256 * 1024
"""Bytes that a receiver has to take in `stall_s`."""


class _Splice:
    def __init__(self, circuit: Circuit, limits: RelayLimits, count: Callable[[int], None]) -> None:
        self._circuit = circuit
        self._limits = limits
        self._count = count
        self._last_s = trio.current_time()

    async def run(self, source: Stream, target: Stream) -> End:
        """Both directions and the watch over silence."""
        ends: list[End] = []
        with trio.move_on_after(self._limits.circuit_s) as scope:
            try:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._watch)
                    async with trio.open_nursery() as both:
                        both.start_soon(self._pump, source, target)
                        both.start_soon(self._pump, target, source)
                    nursery.cancel_scope.cancel()
            except* CutOff as group:
                ends += [cut.end for cut in [first_of(group, CutOff)] if cut is not None]
            except* RemoteError:
                ends.append("lost")
        if scope.cancelled_caught:
            return "time"
        return ends[0] if ends else "ended"

    async def _pump(self, source: Stream, target: Stream) -> None:
        while data := await source.receive():
            self._last_s = now = trio.current_time()
            pause_s = self._circuit.charge(len(data), now)
            self._count(len(data))
            for start in range(0, len(data), PIECE_BYTES):
                with trio.move_on_after(self._limits.stall_s) as scope:
                    await target.send(data[start : start + PIECE_BYTES])
                if scope.cancelled_caught:
                    raise CutOff("stalled")
            if pause_s:
                await trio.sleep(pause_s)
        await target.finish()

    async def _watch(self) -> None:
        while True:
            await trio.sleep_until(self._last_s + self._limits.circuit_idle_s)
            if trio.current_time() >= self._last_s + self._limits.circuit_idle_s:
                raise CutOff("idle")


async def splice(
    source: Stream, target: Stream, circuit: Circuit, limits: RelayLimits, count: Callable[[int], None]
) -> End:
    """Pass on until the end, and say which; the streams are then reset unless both had ended.

    `count` is told of bytes as they are passed on.
    """
    try:
        return await _Splice(circuit, limits, count).run(source, target)
    finally:
        source.abort()
        target.abort()
