"""The ledger of error feedback in whole nodes: partitions, crashes and orderly restarts on the virtual clock.

What the trainer made is replaced by dyadic numbers on its way into the books, so that all sums are exact.
"""

import asyncio
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from ledger_rig import data_of, dyadic

from talkoot.averaging.certificate import Certificate, decode_certificate
from talkoot.averaging.contribution import LocalContribution
from talkoot.peer import contribution_log, residual
from talkoot.peer.manifest import Compression
from talkoot.peer.residual import Residual
from talkoot.peer.simulation.disks import simulated_disks
from talkoot.peer.simulation.peers import SimPeer
from talkoot.peer.simulation.signatures import stand_in_signatures
from talkoot.peer.simulation.tasks import CHUNK_SIZE, NUMEL
from talkoot.peer.simulation.virtual_time import run_virtual
from talkoot.peer.simulation.world import World


class Account:
    """The dumb account of one peer: all that it made, all that it sent."""

    def __init__(self) -> None:
        self.made = torch.zeros(NUMEL, dtype=torch.float64)
        self.saved = self.made
        """What a kill leaves of it."""
        self.sent: dict[bytes, tuple[bytes, torch.Tensor]] = {}
        """By prior digest: root, and what was sent, decoded."""
        self.data: dict[bytes, bytes] = {}
        self.returned = self.checked = 0

    def encoded(self, local: LocalContribution) -> None:
        out = torch.empty(NUMEL)
        for chunk in range(len(local.index.entries)):
            piece = out[chunk * CHUNK_SIZE : (chunk + 1) * CHUNK_SIZE]
            local.chunks.codec.decode_into(local.chunks[chunk], piece)
        self.sent[local.header.prior] = local.header.root, out.double()
        self.data[local.header.prior] = data_of(local)

    def counted(self, chain: list[Certificate]) -> torch.Tensor:
        total = torch.zeros(NUMEL, dtype=torch.float64)
        for certificate in chain:
            root, decoded = self.sent.get(certificate.value.prior, (None, None))
            if decoded is not None and any(item.root == root for item in certificate.value.cut):
                total += decoded
        return total


class Auditor:
    """Looks over the shoulder of every peer's books."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.accounts: dict[Path, Account] = {}
        self.number = 0
        self.problems: list[str] = []
        """Also of nodes that died: an assertion in a node ends that node, not the test."""
        patch.setattr(residual, "step_scale", lambda steps, reference: 1.0)
        patch.setattr(contribution_log, "MAX_KEPT", 1000)  # what the bound loses is tested elsewhere
        patch.setattr(contribution_log, "MAX_BYTES_PER_ELEMENT", 1000)
        open_books, encode, save, follow, turn = (
            Residual.__init__, Residual.encode, Residual.save, Residual.follow, Residual._turn,
        )  # fmt: skip

        def opened(books: Residual, paths: Any, rules: Any, *, take_up: bool = True) -> None:
            open_books(books, paths, rules, take_up=take_up)
            account = self.accounts.setdefault(paths.path, Account())
            account.made = account.saved.clone()

        def encoded(books: Residual, start: Any, local: Any, **values: Any) -> LocalContribution | None:
            account = self.of(books)
            self.number += 1
            delta = dyadic(self.number, NUMEL)
            account.made += delta.double()
            made = encode(books, torch.zeros(NUMEL), -delta, **values)
            if made is not None:
                assert made.header.prior not in account.sent
                account.encoded(made)
            return made

        def saved(books: Residual) -> None:
            save(books)
            account = self.of(books)
            account.saved = account.made.clone()

        def followed(books: Residual, head: Certificate, certificate_of: Any) -> None:
            follow(books, head, certificate_of)
            self.check(books, head, certificate_of)

        def turned(books: Residual, entry: Any) -> None:
            self.of(books).returned += entry.counted
            turn(books, entry)

        patch.setattr(Residual, "__init__", opened)
        patch.setattr(Residual, "encode", encoded)
        patch.setattr(Residual, "save", saved)
        patch.setattr(Residual, "follow", followed)
        patch.setattr(Residual, "_turn", turned)

    def of(self, books: Residual) -> Account:
        return self.accounts[books._folder]

    def check(self, books: Residual, head: Certificate, certificate_of: Any) -> None:
        account = self.of(books)
        chain = [certificate_of(number) for number in range(head.value.round + 1)]
        account.checked += 1
        if not torch.equal(account.made, account.counted(chain) + books.carry_P.double()):
            self.problems.append(f"{books._folder.name}, round {head.value.round}")


async def trouble(world: World, random: Random) -> None:
    """Partitions with restarts and a crash in between."""
    for _ in range(4):
        peers = list(world.peers)
        random.shuffle(peers)
        world.hub.partition([peer.key for peer in peers[: len(peers) // 2]])
        await asyncio.sleep(random.uniform(20.0, 40.0))
        victim = peers[0]
        if victim.task is not None:
            await world.stop(victim, 60.0)
        if random.random() < 0.5:
            world.hub.heal()
        world.start(victim)
        await asyncio.sleep(random.uniform(5.0, 20.0))
        world.hub.heal()
        await asyncio.sleep(random.uniform(10.0, 20.0))
    world.crash(peers[1])
    await asyncio.sleep(5.0)
    world.start(peers[1])
    await asyncio.sleep(30.0)


@pytest.mark.parametrize("seed", [1, 2])
def test_nothing_is_lost_or_counted_twice(seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    auditor = Auditor(monkeypatch)
    heads: list[Certificate] = []
    random = Random(seed)

    def on_head(_peer: SimPeer, certificate: Certificate) -> None:
        heads.append(decode_certificate(certificate.encode()))

    async def main() -> None:
        world = World(
            5,
            seed,
            tmp_path,
            witness=lambda key, message: None,
            on_head=on_head,
            on_trouble=auditor.problems.append,
            compression=Compression(codec="int8", error_feedback=True),
        )
        await world.run(lambda: trouble(world, random))

    with simulated_disks(), stand_in_signatures():
        run_virtual(main())
    assert not auditor.problems
    accounts = auditor.accounts.values()
    assert sum(account.checked for account in accounts) > 50
    assert sum(account.returned for account in accounts) > 0  # something was given back
    assert {head.kind for head in heads} >= {"weak", "final"}
