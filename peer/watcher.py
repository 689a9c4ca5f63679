"""Follows the other peers' contributions, beside the rounds: what is odd about whose, for people and metrics.

What it looks at is here anyway: the headers in the certificate; of the contributions themselves a few chunks
of the part that this node reduced (in a sparse exchange, of everything), and the aggregate of the round
before. Which pieces are looked at follows from a secret of this node, so nobody can know where not to lie.
What follows from it is shown, and bounds what this node's audits say: nobody gets good verdicts for what was
there in earlier rounds. Beyond that it weighs in no round, scores nobody, and is told to nobody.
"""

import asyncio
import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from blake3 import blake3

from talkoot.averaging.certificate import Value
from talkoot.averaging.contribution import Entry
from talkoot.averaging.encoded import Encoded
from talkoot.averaging.gram import Gram
from talkoot.averaging.ledger import Ledger
from talkoot.averaging.rotation import contribution_codec
from talkoot.averaging.round import Round
from talkoot.averaging.rules import Rules
from talkoot.averaging.signing import Signer
from talkoot.averaging.source import Source, decode_checked
from talkoot.averaging.succession import weigh
from talkoot.averaging.verdicts import MAX_SCORE
from talkoot.averaging.watch import Held, Record, Turn, Watch
from talkoot.dht.errors import ConfigError
from talkoot.dht.identity import peer_id_of
from talkoot.peer import clock, watch_file
from talkoot.peer.sketches import Sketch, Sketches

log = logging.getLogger("talkoot.watch")

MAX_CHUNKS = 8
"""Chunks of each contribution that are decoded in a round."""

LASTING_CHUNKS = 4
"""So many of them are the same in each round, if they are here: those are compared with earlier rounds'."""

SAMPLE_NUMEL = 2**20
"""About so many values of an aggregate are remembered for the next round: 4 MiB."""

SAVE_S = 60.0
"""Least pause between two writes of the file."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Ended:
    """A round that is certified, and what is here of it."""

    value: Value
    ledger: Ledger
    """Before the round."""
    slices: Mapping[int, Mapping[int, "Piece"]]
    """Of a dense one: by number in the cut, by number of chunk."""
    encoded: Encoded | None
    """Of a sparse one."""
    before: torch.Tensor | None
    """The sample of the aggregate of the round before."""

    def pieces(self) -> Mapping[int, Mapping[int, "Piece"]]:
        """What is here of the contributions. Hashes the indexes of sparse ones."""
        if self.encoded is None:
            return self.slices
        sources = self.encoded.counted(self.value)
        return {
            i: dict(enumerate(zip(source.chunks, source.entries, strict=True)))
            for i, source in enumerate(sources or ())
        }


Piece = tuple[bytes | memoryview, Entry]
"""An encoded chunk and its index entry."""


class Sample:
    """A run of values of each chunk: where aggregates and contributions are compared."""

    def __init__(self, rules: Rules, secret: bytes) -> None:
        self._rules = rules
        self._run = max(1, SAMPLE_NUMEL // rules.num_chunks)
        self._place = int.from_bytes(blake3(secret).digest()[:8], "little")

    def of(self, chunk: int) -> slice:
        """In the values of a chunk."""
        numel = self._rules.chunk_numel(chunk)
        length = min(self._run, numel)
        start = self._place % (numel - length + 1)
        return slice(start, start + length)

    def start(self, chunk: int) -> int:
        """Where the run of a chunk is in `take`."""
        return chunk * min(self._run, self._rules.chunk_size)

    def take(self, vector_P: torch.Tensor) -> torch.Tensor:
        """Copy the runs of a whole vector."""
        size = self._rules.chunk_size
        runs = []
        for chunk in range(self._rules.num_chunks):
            run = self.of(chunk)
            runs.append(vector_P[chunk * size + run.start : chunk * size + run.stop])
        return torch.cat(runs)


class Watcher:
    """One for a node. `run` is a service; the round's driver tells it what ends."""

    def __init__(
        self,
        signer: Signer,
        rules: Rules,
        path: Path,
        *,
        count: Callable[[str], None],
        suspects: Callable[[int], None],
    ) -> None:
        """What is remembered is in the file at `path`; `count` hears of each odd sign, `suspects` how many
        are suspected."""
        self._key = signer.key
        self._secret = signer.sign(b"talkoot watch")  # a signature that nobody else sees
        self._rules = rules
        self._path = path
        self._count = count
        self._suspects = suspects
        self._watch = Watch()
        self._sample = Sample(rules, self._secret)
        self._last: tuple[bytes, torch.Tensor] | None = None
        """Digest of an outer state, and the sample of the aggregate that led to it."""
        self._ended: Ended | None = None
        self._sketches = Sketches(self._secret)
        self._highest: tuple[bytes, Mapping[bytes, int]] | None = None
        """Digest after the round that was looked at last, and the best verdicts on its contributions."""
        self._wake = asyncio.Event()
        self._looked = asyncio.Event()
        self._saved_s = -math.inf
        self._unsaved = self._told = False
        self._tell()

    @property
    def records(self) -> Mapping[bytes, Record]:
        """What is known, by peer."""
        return self._watch.records

    def ending(
        self, machine: Round, value: Value, encoded: Encoded | None, aggregate_P: torch.Tensor
    ) -> None:
        """A round is certified and about to be committed; its aggregate still lies in `aggregate_P`, if it
        was decoded here. Quick: copies a sample of it."""
        last, self._last = self._last, None
        if encoded is not None and encoded.complete:
            self._last = value.digest, self._sample.take(aggregate_P)
        before = last[1] if last is not None and last[0] == value.prior else None
        self._ended = Ended(
            value=value,
            ledger=machine.context.ledger,
            slices=self._slices(machine, value) if self._rules.exchange == "dense" else {},
            encoded=encoded if self._rules.exchange == "sparse" else None,
            before=before,
        )
        self._looked.clear()
        self._wake.set()

    async def highest(self, digest: bytes, key: bytes) -> int:
        """The best score that `key` may get for its contribution to the round that ended with `digest`: the
        best there is, but for one that was there before. Waits until the newest round was looked at."""
        await self._looked.wait()
        if self._highest is None or self._highest[0] != digest:
            return MAX_SCORE
        return self._highest[1].get(key, MAX_SCORE)

    def _slices(self, machine: Round, value: Value) -> dict[int, Mapping[int, Piece]]:
        """Of a dense round."""
        whole = machine.slices.whole()
        pieces: dict[int, Mapping[int, Piece]] = {}
        for i, item in enumerate(value.cut):
            held = whole.get(item.key)
            if held is not None and held.contribution.root == item.root and held.index is not None:
                entries = held.index.entries
                pieces[i] = {number: (data, entries[number]) for number, data in held.chunks.items()}
        return pieces

    async def run(self) -> None:
        """Take up what is remembered, and look at each round that ends until cancelled; where rounds end
        faster, at the newest."""
        self._watch = Watch(await asyncio.to_thread(watch_file.load, self._path))
        self._tell()
        while True:
            await self._wake.wait()
            await self.look()
            if clock.now() - self._saved_s >= SAVE_S:
                await self.save()

    async def look(self) -> None:
        """Look at the round that ended last, unless that is done."""
        self._wake.clear()
        ended, self._ended = self._ended, None
        if ended is not None:
            held, highest = await asyncio.to_thread(self._compared, ended)
            self._learn(ended, held)
            self._highest = ended.value.digest, highest
        if self._ended is None:
            self._looked.set()

    def _compared(self, ended: Ended) -> tuple[Held | None, Mapping[bytes, int]]:
        """What is here of a round, and what it says of earlier ones; for a thread."""
        sketched: dict[int, torch.Tensor] = {}
        held = self._held(ended, sketched)
        if held is None or not sketched:
            return held, {}
        counting = [item.weight > 0 for item in weigh(ended.value.cut, ended.ledger, self._rules)]
        sketch = Sketch(rows=held.rows, chunks=sketched)
        highest = self._sketches.compare(sketch, counting)
        self._sketches.remember(sketch)
        return held, {ended.value.cut[number].key: score for number, score in highest.items()}

    def _held(self, ended: Ended, sketched: dict[int, torch.Tensor]) -> Held | None:
        """Decode and compare; None where nothing but headers is here. Puts the values that are remembered
        into `sketched`, by chunk. Computes for long: for a thread."""
        pieces = ended.pieces()
        rows, numbers = sorted(pieces), self._drawn(ended.value, pieces)
        if not rows or not numbers:
            return None
        products = Gram(len(rows) + 1)
        scratch = torch.empty(self._rules.chunk_size)
        codecs = {i: contribution_codec(ended.value.cut[i]) for i in rows}
        unsound = set()
        for chunk in numbers:
            values = scratch[: self._rules.chunk_numel(chunk)]
            run, start = self._sample.of(chunk), self._sample.start(chunk)
            slices = []
            for i in rows:
                data, entry = pieces[i][chunk]
                if not decode_checked(Source(1.0, [data], [entry], codecs[i]), 0, values):
                    unsound.add(i)
                    values.zero_()
                slices.append(values[run].clone())
            length = run.stop - run.start
            slices.append(
                torch.zeros(length) if ended.before is None else ended.before[start : start + length]
            )
            products.add(slices)
            if chunk in numbers[:LASTING_CHUNKS]:
                places = self._sketches.places(chunk, length)
                sketched[chunk] = torch.stack([values[places] for values in slices])
        return Held(rows=rows, gram=products.matrix(), unsound=frozenset(unsound))

    def _drawn(self, value: Value, pieces: Mapping[int, Mapping[int, Piece]]) -> list[int]:
        """Chunks that are here of every contribution of which any is: some of them, as nobody else knows.
        First those that are the same in each round."""
        held = [set(chunks) for chunks in pieces.values()]
        common = set.intersection(*held) if held else set()

        def lot(seed: bytes) -> list[int]:
            return sorted(common, key=lambda n: blake3(seed + n.to_bytes(4, "little")).digest())

        lasting = lot(self._secret)[:LASTING_CHUNKS]
        others = [number for number in lot(self._secret + value.digest) if number not in lasting]
        return (lasting + others)[:MAX_CHUNKS]

    def _learn(self, ended: Ended, held: Held | None) -> None:
        value = ended.value
        weights = weigh(value.cut, ended.ledger, self._rules)
        turns = self._watch.see(
            value.round, value.cut, counting=[item.weight > 0 for item in weights], held=held
        )
        self._unsaved = True
        for item in value.cut:
            if item.key != self._key:
                for sign in self.records[item.key].signs:
                    self._count(sign)
        for turn in turns:
            if turn.key != self._key:
                _log(value.round, turn)
        self._tell()

    def _tell(self) -> None:
        self._suspects(sum(record.suspected for key, record in self.records.items() if key != self._key))

    async def save(self) -> None:
        """Write the file, if there is news. What cannot be written is learned again after a restart."""
        if not self._unsaved:
            return
        self._saved_s, self._unsaved = clock.now(), False
        data = watch_file.encode(self._watch.records)
        try:
            await asyncio.to_thread(watch_file.save, self._path, data)
        except ConfigError as error:
            log.log(logging.DEBUG if self._told else logging.INFO, "%s; it is tried again", error)
            self._told = self._unsaved = True
            return
        self._told = False


def _log(round_: int, turn: Turn) -> None:
    name, record = peer_id_of(turn.key), turn.record
    if record.suspected:
        log.warning("round %d: contributions of %s are odd: %s", round_, name, words(record))
    else:
        log.info("round %d: contributions of %s are like before again", round_, name)


def words(record: Record) -> str:
    """What is odd about the last contribution, for people."""
    known = {
        "norm": f"norm {record.norm:+.1f} spreads from its past",
        "direction": f"direction {record.direction:+.1f} spreads from its past, or against all others",
        "copy": f"a copy of {peer_id_of(record.like)}, or copied by it" if record.like else "a copy",
    }
    return "; ".join(known[sign] for sign in record.signs) or "nothing this time"
