"""A node's state under SIGKILL: at every call that changes the disk, then at random instants.

A process commits round after round (contribution made and saved, outer step, vote, state, logs, the round's
record, a proof against somebody) and is killed; the next one opens what is left. It must find a certified
round with the digest that an undisturbed run has after so many rounds, no round less than the killed process
had committed, no record and no proof that is not whole, everybody convicted whom the killed process had
convicted, and carry to the last bit what rounds have not counted yet; and go on from there.

    python benchmarks/state_kills.py [--numel 2000000] [--rounds 3] [--random 500] [--seed 0]
        [--dir DIR] [--json FILE]

Exit code 1 when anything was lost.
"""

import argparse
import json
import logging
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from random import Random
from statistics import median
from typing import Any

import torch
from state_kills_proofs import convict, liar, open_proofs

from talkoot.averaging.certificate import Certificate, Signature, Value, genesis, vote_bytes
from talkoot.averaging.contribution import LocalContribution
from talkoot.averaging.digest import state_tree
from talkoot.averaging.rules import Rules
from talkoot.averaging.succession import next_ledger
from talkoot.dht.identity import Identity, verify
from talkoot.peer import presets
from talkoot.peer.founding import first_ledger
from talkoot.peer.holdings import Holdings, number_of, open_holdings
from talkoot.peer.residual import Residual
from talkoot.peer.residual_note import hash_of
from talkoot.peer.roundlog import LogLimits
from talkoot.peer.rules_of import rules_of
from talkoot.peer.statedir import StateDir
from talkoot.peer.store import OuterStore

US = Identity.from_seed(b"k" * 32)

CALLS = ("open", "mkdir", "fsync", "pwrite", "ftruncate", "posix_fallocate", "replace", "rename", "unlink")
"""Functions of `os` that change a disk or make a change durable."""

START_S = 10.0
"""A node may take so long to open its state, hashing apart."""

RECORDS = LogLimits(max_rounds=4, max_bytes=1 << 30)

REFERENCE = 64
"""Rounds whose digests are computed beforehand; no process goes further."""


@dataclass(frozen=True, kw_only=True)
class Opened:
    """What a process found when it opened the state."""

    round: int
    digest: bytes
    certified: bool
    records: int
    records_are_whole: bool
    convicted: int
    """Whom proofs convict: the first so many liars."""
    proofs_are_whole: bool
    carried: bytes
    """Hash of the residual."""
    open_s: float
    """Everything, hashing included."""
    hash_s: float


@dataclass(frozen=True)
class Death:
    """When a process is to be killed: at the n-th call that changes the disk, before or after it."""

    at: int
    after: bool


NEVER = Death(0, after=False)


class Killer:
    """Kills this process when it is time; counts the calls."""

    def __init__(self, death: Death) -> None:
        self.count = 0
        self._at, self._after = death.at, death.after
        for name in CALLS:
            setattr(os, name, self._wrap(getattr(os, name)))

    def _wrap(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*arguments: Any, **named: Any) -> Any:
            self.count += 1
            if self.count == self._at and not self._after:
                os.kill(os.getpid(), signal.SIGKILL)
            result = call(*arguments, **named)
            if self.count == self._at:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        return wrapped


class Subject:
    """A swarm of one peer on the disk."""

    def __init__(self, folder: Path, numel: int) -> None:
        draft = presets.make("numpy-test", name="kills")
        manifest = replace(
            draft,
            swarm=replace(draft.swarm, founders=(US.peer_id,)),
            model=replace(draft.model, layout="00" * 32, numel=numel),
            compression=replace(draft.compression, error_feedback=True),
        )
        self.paths = StateDir(folder)
        self.rules: Rules = rules_of(manifest)
        self.paths.prepare()
        ledger = first_ledger(manifest, (US.key,))
        theta_P = torch.randn(numel, generator=torch.Generator().manual_seed(1))
        digest = state_tree(theta_P, torch.zeros(numel), ledger.encode()).digest
        start = genesis(manifest.swarm_id, digest, (US.key,), US)
        OuterStore.create(
            self.paths.outer, numel, theta_P, ledger=ledger.encode(), certificate=start.encode()
        )
        open_holdings(self.paths, self.rules).close()

    def open(self) -> tuple[Holdings, Residual]:
        """As a node does at its start."""
        holdings = open_holdings(self.paths, self.rules)
        holdings.keep_records(RECORDS)
        books = Residual(self.paths, self.rules)
        books.follow(holdings.head, holdings.certificate_of)
        return holdings, books


def encode(holdings: Holdings, books: Residual, work_P: torch.Tensor) -> LocalContribution | None:
    """A contribution of ours to the running round, not saved yet."""
    return books.encode(
        torch.zeros(holdings.rules.numel),
        work_P,
        steps=holdings.rules.inner_steps,
        tokens=100,
        ledger=holdings.ledger,
        prior=holdings.digest,
        admission=b"",
        signer=US,
    )


def contribute(holdings: Holdings, books: Residual) -> LocalContribution:
    """Our contribution to the running round; made once, of the same work in every run."""
    made = books.made_for(holdings.digest)
    local = books.log.local(made) if made is not None else None
    if local is None:
        generator = torch.Generator().manual_seed(~holdings.ledger.round)
        local = encode(
            holdings, books, torch.randint(-64, 65, (holdings.rules.numel,), generator=generator) / 64
        )
        books.save()
    assert local is not None
    if not holdings.contributed():
        holdings.remember_contribution()
    return local


def commit_round(holdings: Holdings, books: Residual) -> None:
    """One round of one peer, in the order in which a node writes; the same round gives the same state. Every
    third round counts nothing."""
    number = holdings.ledger.round
    local = contribute(holdings, books)
    cut = (local.header,) if number % 3 else ()
    ledger = next_ledger(holdings.ledger, cut, (US.key,), holdings.rules)
    generator = torch.Generator().manual_seed(number)
    digest = holdings.apply(torch.randn(holdings.rules.numel, generator=generator), ledger)
    value = Value(
        swarm=ledger.swarm,
        round=number,
        prior=holdings.digest,
        cut=cut,
        present=(US.key,),
        parts=(),
        digest=digest,
        voters=ledger.voters,
    )
    holdings.write_voter_journal(value.hash)
    vote = US.sign(vote_bytes(value, value.hash, 0, "commit", weak=False))
    certificate = Certificate(value=value, attempt=0, weak=False, votes=(Signature(US.key, vote),))
    holdings.commit(certificate, ledger)
    books.follow(certificate, holdings.certificate_of)
    assert holdings.records is not None
    holdings.records.write(number, value.hash, len(RECORD), [RECORD[:32], RECORD[32:]])


RECORD = bytes(range(256)) * 1000
"""What stands for the encoded bytes of a round."""


def records_are_whole(holdings: Holdings) -> bool:
    """Whether every record in the round log is what was written, of a round of ours."""
    records = holdings.records
    assert records is not None
    for kept in records.records:
        certificate = holdings.certificate_of(kept.round)
        if certificate is None or certificate.value.hash != kept.value_hash:
            return False
        if records.read(kept.value_hash, 0, kept.num_bytes) != RECORD:
            return False
    return records.num_damaged == 0


def is_certified(certificate: Certificate) -> bool:
    """Whether our own vote, the only one there is, is under it; a genesis has none."""
    value = certificate.value
    if number_of(certificate) == 0:
        return True
    message = vote_bytes(value, value.hash, certificate.attempt, "commit", weak=False)
    return any(verify(vote.voter, message, vote.signature) for vote in certificate.votes)


def forked(work: Callable[[int], None]) -> tuple[int, int]:
    """Run `work(descriptor)` in a child; returns its process id and where it reports to."""
    reading, writing = os.pipe()
    child = os.fork()
    if child:
        os.close(writing)
        return child, reading
    os.close(reading)
    code = 1
    try:
        work(writing)
        code = 0
    finally:
        os._exit(code)


def said(reading: int) -> list[str]:
    """Whole lines of a child that has ended."""
    with os.fdopen(reading) as file:
        return [line.strip() for line in file if line.endswith("\n")]


def rounds_in(lines: list[str]) -> list[int]:
    """The rounds that a child said it had committed."""
    return [int(line) for line in lines if not line.startswith("calls")]


def train(subject: Subject, rounds: int, death: Death = NEVER) -> Callable[[int], None]:
    """A child that commits rounds and says so; it ends with how many calls there were."""

    def work(descriptor: int) -> None:
        killer = Killer(death)
        holdings, books = subject.open()
        proofs = open_proofs(subject.paths, subject.rules)
        os.write(descriptor, b"%d\n" % holdings.ledger.round)
        while holdings.ledger.round < rounds:
            convict(proofs, holdings.ledger.round, subject.rules.swarm)
            commit_round(holdings, books)
            os.write(descriptor, b"%d\n" % holdings.ledger.round)
        holdings.close()
        os.write(descriptor, b"calls %d\n" % killer.count)

    return work


def look(subject: Subject) -> Opened:
    """Open the state in a process of its own. Raises RuntimeError when it cannot be opened."""

    def work(descriptor: int) -> None:
        began = time.perf_counter()
        holdings, books = subject.open()
        open_s = time.perf_counter() - began
        proofs = open_proofs(subject.paths, subject.rules)
        files = [path for path in subject.paths.proofs.glob("*") if not path.name.startswith(".")]
        began = time.perf_counter()
        found = holdings.store.compute_digest()
        hash_s = time.perf_counter() - began
        fits = found == holdings.digest == holdings.head.value.digest
        result = {
            "round": holdings.ledger.round,
            "digest": found.hex(),
            "certified": fits and is_certified(holdings.head),
            "records": len(holdings.records.records) if holdings.records is not None else 0,
            "records_are_whole": records_are_whole(holdings),
            "convicted": next(n for n in count() if liar(n).key not in proofs.convictions),
            "proofs_are_whole": len(proofs.files.sizes) == len(files) == len(proofs.convictions.convicted),
            "carried": hash_of(books.carry_P).hex(),
            "open_s": open_s,
            "hash_s": hash_s,
        }
        holdings.close()
        os.write(descriptor, json.dumps(result).encode() + b"\n")

    child, reading = forked(work)
    lines = said(reading)
    os.waitpid(child, 0)
    if not lines:
        raise RuntimeError("the state cannot be opened any more")
    found = json.loads(lines[0])
    hashes = {name: bytes.fromhex(found[name]) for name in ("digest", "carried")}
    return Opened(**{**found, **hashes})


@dataclass(frozen=True)
class Reference:
    """What an undisturbed run holds at the beginning of a round."""

    digest: bytes
    carried: tuple[bytes, bytes]
    """Hash of the residual, before and after our contribution to the round was made."""


class Trial:
    """Kills, and what the next process found each time."""

    def __init__(self, folder: Path, numel: int, rounds: int) -> None:
        """In the first `rounds` rounds every call is tried."""
        self.folder, self.numel, self.rounds = folder, numel, rounds
        self.opened: list[Opened] = []
        self.wrong: list[str] = []
        self._subjects = 0
        self.reference = self._reference()

    def fresh(self) -> Subject:
        """A new swarm, the same as all others."""
        self._subjects += 1
        return Subject(self.folder / f"swarm-{self._subjects}", self.numel)

    def _reference(self) -> list[Reference]:
        subject = self.fresh()
        holdings, books = subject.open()
        found = []
        for _ in range(REFERENCE + 1):
            before = hash_of(books.carry_P)
            contribute(holdings, books)
            found.append(Reference(holdings.digest, (before, hash_of(books.carry_P))))
            commit_round(holdings, books)
        holdings.close()
        self.forget(subject)
        return found

    def forget(self, subject: Subject) -> None:
        """Give its disk back."""
        for path in sorted(subject.paths.path.rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()

    def check(self, subject: Subject, committed: int, what: str) -> int:
        """Open what a killed process left; returns its round."""
        try:
            found = look(subject)
        except RuntimeError as error:
            self.wrong.append(f"{what}: {error}")
            return -1
        self.opened.append(found)
        undisturbed = self.reference[found.round]
        if not found.certified or found.digest != undisturbed.digest:
            self.wrong.append(f"{what}: round {found.round} is not what was certified")
        if found.carried not in undisturbed.carried:
            self.wrong.append(f"{what}: in round {found.round} what was carried is lost")
        if not found.records_are_whole:
            self.wrong.append(f"{what}: a record of a round is not what was written")
        if not found.proofs_are_whole or found.convicted < committed:
            self.wrong.append(
                f"{what}: {found.convicted} are convicted, proofs whole: {found.proofs_are_whole}"
            )
        if not committed <= found.round <= committed + 1:
            self.wrong.append(f"{what}: round {found.round} after {committed} had been committed")
        return found.round

    def at_calls(self) -> int:
        """Kill before and after every call of the first rounds; returns how many calls there are."""
        subject = self.fresh()
        num_calls = self._run(subject)[1]
        self.forget(subject)
        for at in range(1, num_calls + 1):
            for after in (False, True):
                subject = self.fresh()
                committed, _ = self._run(subject, Death(at, after))
                what = f"killed {'after' if after else 'before'} call {at}"
                self.check(subject, committed, what)
                if self._run(subject)[0] != self.rounds:
                    self.wrong.append(f"{what}: the next process did not come to round {self.rounds}")
                self.forget(subject)
        return num_calls

    def _run(self, subject: Subject, death: Death = NEVER) -> tuple[int, int]:
        """Rounds committed, and calls if the child lived to say how many."""
        child, reading = forked(train(subject, self.rounds, death))
        lines = said(reading)
        os.waitpid(child, 0)
        calls = next((int(line.split()[1]) for line in lines if line.startswith("calls")), 0)
        return max(rounds_in(lines), default=0), calls

    def at_random(self, num: int, random: Random) -> None:
        """Kill at random instants, going on with what is left."""
        subject, at = self.fresh(), 0
        for number in range(num):
            if at > REFERENCE // 2:
                self.forget(subject)
                subject, at = self.fresh(), 0
            child, reading = forked(train(subject, REFERENCE))
            time.sleep(random.uniform(0.0, 0.5))  # the kill comes at a random instant
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            committed = max(rounds_in(said(reading)), default=at)
            at = self.check(subject, committed, f"kill {number} at random")
            if at < 0:
                return
        self.forget(subject)


def main() -> int:
    """1 when something was lost."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--numel", type=int, default=2_000_000)
    parser.add_argument("--rounds", type=int, default=3, help="rounds in which every call is tried")
    parser.add_argument("--random", type=int, default=500, help="kills at random instants")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--dir", type=Path, help="a folder on the disk to try; by default a temporary one")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory(dir=options.dir) as folder:
        trial = Trial(Path(folder), options.numel, options.rounds)
        calls = trial.at_calls()
        trial.at_random(options.random, Random(options.seed))
    beside = [found.open_s - found.hash_s for found in trial.opened]
    rate = 8 * options.numel / median(found.hash_s for found in trial.opened) / 1e9
    result = {
        "numel": options.numel,
        "calls_in_rounds": calls,
        "kills": len(trial.opened),
        "wrong": trial.wrong,
        "records_found": max(found.records for found in trial.opened),
        "open_beside_hashing_s": {"median": median(beside), "max": max(beside)},
        "hashing_gb_s": rate,
    }
    for what in trial.wrong:
        print(what)
    print(
        f"{2 * calls} kills at {calls} calls of {options.rounds} rounds, {options.random} at random: "
        f"{len(trial.wrong)} went wrong; opening beside hashing {median(beside):.3f} s, at most "
        f"{max(beside):.3f} s; hashing {rate:.2f} GB/s"
    )
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n")
    return 1 if trial.wrong or max(beside) > START_S else 0


if __name__ == "__main__":
    sys.exit(main())
