"""What hivemind's DHT stores and returns on our node: the record table and nothing else.

hivemind keeps whatever it is given: values of megabytes, expirations in a hundred years, subkeys of mixed
types that make every reader hang, and it drops a whole dictionary for one bad entry. Here a store must be
a signed record of our swarm under its owner's key, everything else is refused, good entries of a
dictionary are taken and bad ones left, and what is read from other nodes goes through the same gate.
"""

import time
from collections.abc import Iterator
from typing import Any

from talkoot.dht.entries import (
    directory_place,
    pack_envelope,
    pack_subkey,
    unpack_envelope,
    unpack_subkey,
)
from talkoot.dht.records import MAX_SKEW_S, MAX_TTL_S
from talkoot.dht.substrate import (
    DHTID,
    DHTLocalStorage,
    DHTNode,
    DHTProtocol,
    DHTRecord,
    DictionaryDHTValue,
    RecordValidatorBase,
    ValueWithExpiration,
)
from talkoot.dht.table import RecordTable

_MAX_NEIGHBOURS = 20


def directory_id(swarm: bytes) -> DHTID:
    """Where that key is in hivemind's key space."""
    return DHTID.from_bytes(directory_place(swarm))


class RecordValidator(RecordValidatorBase):  # type: ignore[misc]  # hivemind is untyped
    """Takes valid records into the table; everything else is refused."""

    def __init__(self, table: RecordTable) -> None:
        self._table = table
        self._key = directory_id(table.swarm).to_bytes()

    def validate(self, record: DHTRecord) -> bool:
        """True if the table holds exactly this record afterwards. Never raises."""
        if record.key != self._key:
            return False
        now = time.time()
        # Expiration is signed inside; the one outside is held to the same bound. `not <=` refuses NaN.
        if not record.expiration_time <= now + MAX_TTL_S + MAX_SKEW_S:
            return False
        owner, envelope = unpack_subkey(record.subkey), unpack_envelope(record.value)
        return owner is not None and envelope is not None and self._table.accept(owner, envelope, now)

    def take_dictionary(self, key: bytes, dictionary: DictionaryDHTValue) -> bool:
        """In place of hivemind's check of dictionaries: keep what is good, then empty it.

        The dictionary is the other node's: its size limit and times may be of any type.
        """
        if key != self._key:
            return False
        for subkey, item in list(dictionary.data.items()):
            if isinstance(subkey, bytes) and isinstance(item.expiration_time, float):
                self.validate(DHTRecord(key, pack_subkey(subkey), item.value, item.expiration_time))
        dictionary.clear()
        return True


class TableStorage(DHTLocalStorage):  # type: ignore[misc]  # hivemind is untyped
    """hivemind's storage interface over the record table; holds nothing itself."""

    def __init__(self, table: RecordTable) -> None:
        super().__init__()
        self._table = table
        self._id = directory_id(table.swarm)

    def store(self, key: DHTID, value: Any, expiration_time: float, subkey: Any = None) -> bool:
        """Whether the validator, which is always asked before, took this very record."""
        return subkey is not None and self.store_subkey(key, subkey, value, expiration_time)

    def store_subkey(self, key: DHTID, subkey: Any, value: Any, expiration_time: float) -> bool:
        envelope = unpack_envelope(value)
        held = isinstance(subkey, bytes) and key == self._id and envelope is not None
        return held and self._table.accept(subkey, envelope or b"", time.time())

    def get(self, key: DHTID) -> ValueWithExpiration | None:
        """All records as one dictionary value."""
        latest = self._table.latest_expiration()
        if key != self._id or latest is None:
            return None
        dictionary = DictionaryDHTValue()
        for owner, entry in self._table.entries(time.time()):
            dictionary.store(owner, pack_envelope(entry.envelope), entry.signed.expires)
        return ValueWithExpiration(dictionary, latest) if dictionary else None

    def items(self) -> Iterator[tuple[DHTID, ValueWithExpiration]]:
        value = self.get(self._id)
        return iter([] if value is None else [(self._id, value)])

    def __contains__(self, key: object) -> bool:
        return key == self._id and self.get(self._id) is not None

    def __len__(self) -> int:
        return int(self._id in self)


def install(node: DHTNode, validator: RecordValidator, table: RecordTable) -> None:
    """Put table and validator behind a fresh node of the pinned hivemind version.

    Searches through it return no values (they would be merged with those of others); they fill the table.
    """
    protocol: DHTProtocol = node.protocol
    protocol.storage = protocol.cache = TableStorage(table)
    protocol._validate_dictionary = validator.take_dictionary
    call_find = protocol.call_find

    async def call_find_bounded(peer: Any, keys: Any) -> Any:
        response = await call_find(peer, keys)
        return response and {key: (None, _first(near)) for key, (_, near) in response.items()}

    protocol.call_find = call_find_bounded


def _first(neighbours: dict[Any, Any]) -> dict[Any, Any]:
    """No node has more neighbours to name than a bucket holds; a hostile one names thousands."""
    return dict(list(neighbours.items())[:_MAX_NEIGHBOURS])
