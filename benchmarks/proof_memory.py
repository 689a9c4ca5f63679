"""How much memory an audit takes that ends with a proof, and the proof's way to another peer, by the rule.

One reducer has the whole vector as its part and lies about the last chunk of it. An auditor computes the part
again from the contributions, which lie in files here, and keeps the proof; another peer hears of it, fetches
it over the network in memory, verifies it and keeps it, too; a third process of neither is started again and
verifies what lies on its disk. Prints seconds and by how much anonymous memory (RssAnon) grew at most.

    python benchmarks/proof_memory.py [--numel 67108864] [--peers 6] [--json FILE]

Exit code 1 where it grew by more than 300 MB, or somebody was not convicted.
"""

import argparse
import asyncio
import json
import logging
import sys
import tempfile
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import torch
from checkpoint import measured

from talkoot.averaging.aggregate import aggregated_chunks
from talkoot.averaging.certificate import Contribution
from talkoot.averaging.claims import claim_of, sign_claim
from talkoot.averaging.contribution import ENTRY_BYTES, Entry, Index
from talkoot.averaging.digest import content_hash
from talkoot.averaging.inputs import Input, sources_of
from talkoot.averaging.ledger import Ledger
from talkoot.averaging.parts import Part
from talkoot.averaging.proof import Basis
from talkoot.averaging.robustness import Robustness
from talkoot.averaging.rotation import codec_of
from talkoot.averaging.rules import Rules
from talkoot.compression import codec as codecs
from talkoot.dht.identity import Identity
from talkoot.dht.memory import MemoryHub
from talkoot.peer import presets
from talkoot.peer.audits.auditor import Auditor, _Ended
from talkoot.peer.audits.proofs import Proofs
from talkoot.peer.audits.protocol import TellProof
from talkoot.peer.founding import first_ledger
from talkoot.peer.rules_of import rules_of
from talkoot.peer.serving import Gate

MOST_BYTES = 300 * 10**6

RULES = {
    "mean": Robustness(norm_cap="part"),
    "trimmed_mean": Robustness(norm_cap="part", rule="trimmed_mean"),
    "centered_clip": Robustness(norm_cap="part", rule="centered_clip"),
}


class Slice:
    """One contribution in a file, as `Evidence` would give it."""

    def __init__(self, path: Path, size: int, index: Index) -> None:
        self._path, self._size = path, size
        self.index = index

    def chunk(self, number: int) -> bytes:
        with self._path.open("rb") as file:
            file.seek(number * self._size)
            return file.read(self._size)

    def __len__(self) -> int:
        return len(self.index.entries)

    __getitem__ = chunk


class Round:
    """A round of some peers, of whom the first reduces everything and lies."""

    def __init__(self, folder: Path, numel: int, peers: int, robustness: Robustness) -> None:
        self.identities = sorted(
            (Identity.from_seed(bytes([number]) * 32) for number in range(1, peers + 1)),
            key=lambda one: one.key,
        )
        self.keys = tuple(one.key for one in self.identities)
        draft = presets.make("numpy-test", name="proofs")
        manifest = replace(
            draft,
            swarm=replace(draft.swarm, founders=tuple(one.peer_id for one in self.identities)),
            model=replace(draft.model, layout="00" * 32, numel=numel),
            compression=replace(draft.compression, codec="int8", aggregate_codec="int8"),
            robustness=robustness,
        )
        self.rules: Rules = rules_of(manifest)
        self.ledger: Ledger = first_ledger(manifest, self.keys)
        self.basis = Basis(bytes(32), bytes(32), self.ledger.encode())
        self.slices = {one.key: self._slice(folder / f"{n}", n) for n, one in enumerate(self.identities)}
        self.cut = tuple(self._header(one) for one in self.identities)
        self.part = Part(self.keys[0], 0, self.rules.num_chunks)
        self.hashes = self._lie()
        claim = claim_of(
            self.part,
            self.hashes,
            self.cut,
            swarm=self.rules.swarm,
            round_number=self.ledger.round,
            prior=self.basis.digest,
        )
        self.claim = sign_claim(claim, self.identities[0])

    def _slice(self, path: Path, number: int) -> Slice:
        codec = codecs.get("int8")
        draw = torch.randn(self.rules.chunk_size, generator=torch.Generator().manual_seed(number))
        entries = []
        with path.open("wb") as file:
            for chunk in range(self.rules.num_chunks):
                data = codec.encode(draw.roll(chunk)[: self.rules.chunk_numel(chunk)])
                norm2 = codec.squared_norm(data, self.rules.chunk_numel(chunk))
                entries.append(Entry(content_hash(data), norm2))
                file.write(data)
        return Slice(path, codec.encoded_size(self.rules.chunk_size), Index(entries))

    def _header(self, by: Identity) -> Contribution:
        index = self.slices[by.key].index
        header = Contribution(
            swarm=self.rules.swarm,
            round=self.ledger.round,
            prior=self.basis.digest,
            key=by.key,
            root=index.root,
            norm2=index.norm2,
            steps=20,
            tokens=100,
            numel=self.rules.numel,
            codec=self.ledger.codec,
        )
        return msgspec.structs.replace(header, signature=by.sign(header.unsigned()))

    def _lie(self) -> tuple[bytes, ...]:
        inputs = [
            Input(item, self.slices[item.key].index.entries, self.slices[item.key]) for item in self.cut
        ]  # type: ignore[arg-type]
        chunks = aggregated_chunks(
            self.part,
            sources_of(inputs, self.ledger, self.rules),
            range(self.rules.num_chunks),
            codec=codec_of(self.ledger.aggregate_codec, self.basis.digest, self.part.reducer),
            rules=self.rules,
            seed=self.basis.digest,
        )
        return (*[content_hash(chunk) for chunk in chunks][:-1], bytes(32))


class Peer:
    """The audits of one node."""

    def __init__(self, hub: MemoryHub, identity: Identity, made: Round, folder: Path) -> None:
        self.network = hub.node(identity, swarm=made.rules.swarm)
        self.proofs = Proofs(
            self.network,
            made.rules.swarm,
            Gate(),
            folder=folder / "proofs",
            note=folder / "convictions.json",
            proven=lambda *_: self.convicted.set(),
            connected=frozenset,
        )
        self.convicted = asyncio.Event()
        folder.mkdir(exist_ok=True)
        self.proofs.load()
        self.proofs.begin(made.rules, 1, lambda _key: True)


async def way_of_a_proof(made: Round, folder: Path) -> dict[str, Any]:
    """Audit, fetch, start again."""
    hub = MemoryHub()
    auditing, hearing = (Peer(hub, made.identities[n], made, folder / f"peer{n}") for n in (1, 2))
    found: dict[str, Any] = {}
    async with asyncio.TaskGroup() as group:
        running = []
        for one in (auditing, hearing):
            there = asyncio.Event()
            running += [group.create_task(one.network.run(started=there.set))]
            await there.wait()
            running += [group.create_task(one.proofs.run())]
        found["audit"] = await follow(lambda: audit(auditing, made))
        size = auditing.proofs.files.sizes[made.keys[0]]
        found["proof_mb"] = round(size / 1e6, 1)

        async def fetch() -> None:
            assert hearing.proofs.told(made.keys[1], TellProof(made.keys[0], size))
            await hearing.convicted.wait()

        found["fetch_and_verify"] = await follow(fetch)
        for task in running:
            task.cancel()
    again = Peer(MemoryHub(), made.identities[2], made, folder / "peer2")
    found["restart"] = await follow(again.proofs.look_again)
    found["whole"] = again.proofs.files.sizes == {made.keys[0]: size}
    return found


async def audit(peer: Peer, made: Round) -> None:
    """Check the part."""
    peer.proofs.evidence.find = lambda _prior, key: made.slices[key]  # type: ignore[method-assign, assignment, return-value]
    nothing: Any = SimpleNamespace()
    auditor = Auditor(
        made.identities[1], peer.network, made.rules, nothing, peer.proofs,
        parts=1, busy=lambda: False, connected=frozenset, count=lambda _result: None,
    )  # fmt: skip
    value: Any = SimpleNamespace(cut=made.cut)
    result = await auditor._audit(_Ended(value, made.ledger, made.basis, ()), made.claim, made.hashes)
    assert result == "wrong", result


async def follow(job: Callable[[], Awaitable[None]]) -> dict[str, float]:
    """Seconds and megabytes of anonymous memory of a job."""
    loop = asyncio.get_running_loop()

    def wait() -> None:
        asyncio.run_coroutine_threadsafe(_await(job), loop).result()

    seconds, grown = await asyncio.to_thread(measured, wait)
    return {"seconds": round(seconds, 2), "mb": round(grown / 1e6, 1)}


async def _await(job: Callable[[], Awaitable[None]]) -> None:
    await job()


def main() -> int:
    """All rules."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--numel", type=int, default=1 << 26)
    parser.add_argument("--peers", type=int, default=6)
    parser.add_argument("--rule", choices=RULES, action="append")
    parser.add_argument("--dir", type=Path, help="a folder on the disk to try; by default a temporary one")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    results = []
    for rule in options.rule or RULES:
        with tempfile.TemporaryDirectory(dir=options.dir) as folder:
            made = Round(Path(folder), options.numel, options.peers, RULES[rule])
            chunk_mb = codecs.get("int8").encoded_size(made.rules.chunk_size) / 1e6
            part_mb = options.peers * made.rules.num_chunks * (chunk_mb + ENTRY_BYTES / 1e6)
            result = {"rule": rule, "numel": options.numel, "n": options.peers, "part_mb": round(part_mb, 1)}
            result |= asyncio.run(way_of_a_proof(made, Path(folder)))
        results.append(result)
        print(json.dumps(result), flush=True)
    if options.json:
        options.json.write_text(json.dumps(results, indent=1) + "\n")
    stages = ("audit", "fetch_and_verify", "restart")
    small = all(result[stage]["mb"] <= MOST_BYTES / 1e6 for result in results for stage in stages)
    return 0 if small and all(result["whole"] for result in results) else 1


if __name__ == "__main__":
    sys.exit(main())
