"""Directory requests of other peers, limited before hivemind parses them.

A record is signed by its owner, but stored by somebody: who stores a forged one answers for it.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from typing import Any, TypeAlias

from talkoot.dht import limits
from talkoot.dht.company import Company
from talkoot.dht.identity import key_of_multihash
from talkoot.dht.meter import Flow, Rate
from talkoot.dht.network import Events

_UNIT_BYTES = 64 * 1024
# Bytes of a request that count as one request more: who meets a new neighbour gives it all its records.

_Handler: TypeAlias = Callable[[bytes, Any], Awaitable[bytes]]
_caller: ContextVar[bytes | None] = ContextVar("caller", default=None)


class CallRefused(Exception):  # noqa: N818 - hivemind sends its name to the caller
    """The request is not answered."""


class Calls:
    """Limits of the handlers that hivemind serves; counts the records that callers bring."""

    def __init__(self, events: Events, company: Company) -> None:
        self._events = events
        self._company = company
        self._flow = Flow(
            Rate(limits.CALLS_PER_S, limits.CALLS_BURST), Rate(limits.ALL_CALLS_PER_S, limits.ALL_CALLS_BURST)
        )

    def install(self, p2p: Any) -> None:
        """Stand before every handler of a fresh hivemind P2P of the pinned version."""
        handlers: dict[str, _Handler] = p2p._client.control.unary_handlers
        for name, handler in handlers.items():
            handlers[name] = self.limited(handler)

    def limited(self, handler: _Handler) -> _Handler:
        """The handler for those requests that are admitted. Raises CallRefused for the others."""

        async def answer(request: bytes, remote_id: Any) -> bytes:
            peer = self._admit(remote_id.to_bytes(), len(request))
            token = _caller.set(peer)
            try:
                return await handler(request, remote_id)
            finally:
                _caller.reset(token)

        return answer

    def reject(self, reason: str) -> None:
        """Count a refused record, as one of whoever stores it here if a request brought it."""
        self._events.reject(reason, _caller.get(), "record")

    def _admit(self, name: bytes, num_bytes: int) -> bytes:
        try:
            peer = key_of_multihash(name)
        except ValueError:
            self._events.reject("unauthenticated")
            raise CallRefused("unauthenticated") from None
        if peer in self._company.banned:
            self._events.reject("banned")
            raise CallRefused("banned")
        cost = 1 + num_bytes / _UNIT_BYTES
        stranger = not self._company.is_chosen(peer)
        if not self._flow.admit(peer, cost, asyncio.get_running_loop().time(), stranger=stranger):
            self._events.reject("flood" if self._flow.at_fault else "busy", peer)
            raise CallRefused("busy")
        return peer
