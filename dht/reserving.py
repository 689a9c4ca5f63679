"""Keeping reservations at relays, over streams that p2pd opens for us."""

import asyncio
import logging
import time

from talkoot.dht import hop
from talkoot.dht.control import Control, read_message
from talkoot.dht.errors import RemoteError
from talkoot.dht.identity import peer_id_of
from talkoot.dht.multiaddr import Address, place_of
from talkoot.dht.p2pd import P2pdError
from talkoot.dht.relays import FAULTS, Fault, Relays

logger = logging.getLogger("talkoot.relays")

ASK_S = 5.0
"""Longest wait for a relay, connecting included."""
LOOK_S = 5.0
"""Longest pause between two looks at what is due."""
_WEIGHT = 100
# Of relays, when p2pd has too many connections.


class Reserving:
    """Of one node; `run` once for each life of p2pd."""

    def __init__(self, relays: Relays) -> None:
        self._relays = relays
        self._look = asyncio.Event()
        self.changed = asyncio.Event()
        """Set when another set of relays is held than before."""
        self._told: frozenset[bytes] = frozenset()

    def look(self) -> None:
        """Something that matters has changed: a relay was named or lost, reservations are wanted or not."""
        self._look.set()
        self._tell()

    async def run(self, control: Control) -> None:
        """Until cancelled."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.TaskGroup() as tasks:
                while True:
                    self._look.clear()
                    for relay in self._relays.due(loop.time()):
                        tasks.create_task(self._ask(control, relay), name="reservation")
                    pause_s = min(LOOK_S, max(0.05, self._relays.next_s(loop.time())))
                    try:
                        async with asyncio.timeout(pause_s):
                            await self._look.wait()
                    except TimeoutError:
                        continue
        finally:
            self._relays.drop(loop.time())
            self._told = frozenset()
            self.changed.set()

    async def _ask(self, control: Control, relay: bytes) -> None:
        loop = asyncio.get_running_loop()
        fault: Fault
        try:
            reservation, round_trip_s, place = await self._reserve(control, relay)
        except TimeoutError:
            fault = "timeout"
        except RemoteError as error:
            fault = error.reason if error.reason in FAULTS else "refused"
            logger.debug("relay %s: %s", peer_id_of(relay), error)
        except (OSError, EOFError):
            fault = "refused"  # the stream was cut
        except P2pdError as error:
            fault = "unreachable"
            logger.debug("relay %s: %s", peer_id_of(relay), error)
        else:
            now = loop.time()
            self._relays.reserved(relay, reservation, now, round_trip_s=round_trip_s, place=place)
            self._look.set()
            return self._tell()
        self._relays.failed(relay, fault, loop.time())
        logger.debug("relay %s gives no reservation: %s", peer_id_of(relay), fault)
        self._look.set()
        return self._tell()

    async def _reserve(self, control: Control, relay: bytes) -> tuple[hop.Reservation, float, Address | None]:
        """A reservation, how long the answer took, and where the relay was reached."""
        loop = asyncio.get_running_loop()
        places = [place.to_bytes() for place in self._relays.places(relay)]
        async with asyncio.timeout(ASK_S):
            await control.connect(relay, places, timeout_s=ASK_S)
            began = loop.time()
            connection, address = await control.open_on(relay, hop.PROTOCOL, timeout_s=ASK_S)
            with connection:
                place = place_of(address)
                if place is None:
                    raise RemoteError(relay, "unreachable", "only through another relay")
                await loop.sock_sendall(connection, hop.RESERVE)
                answer = await read_message(connection, hop.MAX_HOP_BYTES)
            round_trip_s = loop.time() - began
            await control.keep(relay, weight=_WEIGHT)
        return hop.parse_answer(answer, relay=relay, now=time.time()), round_trip_s, place

    def _tell(self) -> None:
        held = self._relays.held
        if held == self._told:
            return
        for relay in held - self._told:
            logger.info("reachable through relay %s", peer_id_of(relay))
        for relay in self._told - held:
            logger.info("no longer reachable through relay %s", peer_id_of(relay))
        self._told = held
        self.changed.set()
