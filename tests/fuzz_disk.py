"""Parsers of what lies on a disk, which may hold anything, to be tried."""

import itertools
import tempfile
from functools import cache
from pathlib import Path

import numpy as np
import torch
from blake3 import blake3
from checkpoint_rig import write
from fuzz_target import Target, folder, of, on_disk
from safetensors.numpy import save_file
from samples import samples, written
from state_rig import FOUNDERS, MANIFEST, found

from talkoot.averaging import voting
from talkoot.averaging.certificate import Certificate
from talkoot.dht.addresses import AddressBook
from talkoot.dht.errors import ConfigError
from talkoot.peer import (
    certlog,
    head,
    issued,
    journal,
    record_writer,
    residual_note,
    tensor_names,
    watch_file,
)
from talkoot.peer.audits import convictions
from talkoot.peer.bans import BanList, _Bans, banned_as_json
from talkoot.peer.checkpoint_file import CheckpointDamagedError, NotACheckpointError, open_checkpoint
from talkoot.peer.log_reading import LogReader
from talkoot.peer.names import read_names
from talkoot.peer.receipts import ReceiptBook, receipts_for
from talkoot.peer.roundlog import check_record
from talkoot.peer.statedir import StateDir
from talkoot.peer.trainer import localwork, prepared
from talkoot.peer.trainer import protocol as trainer


def logged(path: Path) -> None:
    for reads in (lambda: list(LogReader(path)), lambda: certlog.CertLog(path).close()):
        try:
            reads()
        except certlog.LogCorruptError:
            continue


def a_log(data: bytes) -> bytes:
    """A whole record, then the bytes."""
    return certlog.MAGIC + certlog.record_header(3, data) + data + data


def noted(path: Path) -> None:
    residual_note.read(path.parent, torch.zeros(4))


def a_note(data: bytes) -> bytes:
    front = residual_note.MAGIC + residual_note._checksum(data)
    return front + residual_note._LENGTH.pack(len(data)) + data + bytes(16)


def a_record(data: bytes) -> bytes:
    front = record_writer.HEADER.pack(record_writer.MAGIC, 1, bytes(32), len(data))
    hasher = record_writer.checksum(front)
    hasher.update(data)
    return front + data + hasher.digest(record_writer.CHECKSUM_BYTES)


def saved_work(data: bytes) -> None:
    text = data.decode("utf-8", "replace")
    vectors = {localwork.BASE: np.zeros(2, np.float32)}
    try:
        metadata = {"format": localwork.FORMAT, "work": text, "checksum": localwork._checksum(text, vectors)}
        save_file(vectors, localwork.file_of(folder()), metadata=metadata)
    except UnicodeEncodeError:
        return
    localwork.load(folder(), digest="", round_=1)


def prepared_corpus(path: Path) -> None:
    for name in ("train.bin", "held_out.bin"):
        (path.parent / name).write_bytes(bytes(2))
    prepared._load_meta(path.parent)


@cache
def a_checkpoint() -> bytes:
    """The header of a checkpoint, without its length."""
    with tempfile.TemporaryDirectory() as place:
        holdings = found(Path(place) / "state")
        path = write(holdings, Path(place) / "checkpoints")
        holdings.close()
        data = path.read_bytes()
    return data[8 : 8 + int.from_bytes(data[:8], "little")]


def known_peers(path: Path) -> None:
    book = AddressBook()
    book.load(path)
    book.to_json()


def receipts(path: Path) -> None:
    """A log that begins with the bytes as a certificate, in a state directory of its swarm."""
    paths = StateDir(path.parent)
    if not paths.manifest_file.exists():
        paths.claim(MANIFEST.swarm_id)
        paths.save_manifest(MANIFEST.canonical())
    receipts_for(ReceiptBook(paths), FOUNDERS[0].key)


DISK = [
    Target(
        "receipts",
        (),
        "msgpack",
        of(Certificate),
        on_disk("rounds.log", receipts, lambda data: certlog.MAGIC + certlog.record_header(0, data) + data),
        (ConfigError,),
    ),
    Target(
        "public-names",
        ("peer/names.py read_names",),
        "json",
        lambda: [written({FOUNDERS[0].peer_id: "Ada"}, "json")],
        on_disk("names.json", read_names),
        (ConfigError,),
    ),
    Target(
        "head",
        ("peer/head.py read_head",),
        "msgpack",
        of(head.Head),
        on_disk(
            "HEAD",
            lambda path: head.read_head(path.parent),
            lambda data: head.MAGIC + head._checksum(data) + data,
        ),
        (head.StoreCorruptError,),
    ),
    Target(
        "journal",
        ("peer/journal.py _load",),
        "msgpack",
        of(dict[str, bytes]),
        on_disk("journal", journal.Journal, lambda data: journal.MAGIC + journal._checksum(data) + data),
    ),
    Target(
        "vote",
        ("averaging/voting.py decode_journal",),
        "msgpack",
        of(voting.Journal),
        lambda data: voting.decode_journal(data).encode(),
        (ValueError,),
    ),
    Target(
        "log",
        ("peer/certlog.py CertLog._scan", "peer/log_reading.py LogReader.__iter__"),
        "raw",
        lambda: [b"content"],
        on_disk("rounds.log", logged, a_log),
    ),
    Target("log-raw", (), "raw", lambda: [a_log(b"content")], on_disk("rounds.log", logged)),
    Target(
        "note",
        ("peer/residual_note.py _decoded", "peer/residual_note.py _note"),
        "msgpack",
        of(residual_note.Note),
        on_disk(residual_note.NAME, noted, a_note),
    ),
    Target("note-raw", (), "raw", lambda: [a_note(b"x")], on_disk(residual_note.NAME, noted)),
    Target(
        "round-record",
        ("peer/roundlog.py check_record",),
        "raw",
        lambda: [a_record(b"x"), b"x"],
        on_disk(f"{1:012d}.record", check_record),
    ),
    Target(
        "bans",
        ("peer/bans.py BanList.load",),
        "json",
        lambda: [written([value | {"peer": FOUNDERS[0].peer_id} for value in next(samples(_Bans))], "json")],
        on_disk("bans.json", lambda path: banned_as_json(BanList.load(path), 1.0)),
        (ConfigError,),
    ),
    Target(
        "invites",
        ("peer/issued.py IssuedInvites.load",),
        "msgpack",
        of(issued._All),
        on_disk("issued", lambda path: issued.IssuedInvites.load(path).as_json(None, 1.0)),
        (ConfigError,),
    ),
    Target(
        "convictions",
        ("peer/audits/convictions.py decode_convictions",),
        "json",
        lambda: [written([{"peer": FOUNDERS[0].peer_id, "since": 1, "offence": "lied"}], "json")],
        lambda data: convictions.decode_convictions(data).encode(),
        (ValueError,),
    ),
    Target(
        "known-peers",
        ("dht/addresses.py AddressBook.load",),
        "json",
        lambda: [written({FOUNDERS[0].peer_id: ["/ip4/1.2.3.4/tcp/1"]}, "json")],
        on_disk("peers.json", known_peers),
    ),
    Target(
        "tensor-names",
        ("peer/tensor_names.py _decode",),
        "json",
        of(tensor_names.Names, "json"),
        on_disk("tensors.json", tensor_names._kept),
    ),
    Target(
        "checkpoint",
        ("peer/checkpoint_file.py _parse", "peer/checkpoint_file.py _names"),
        "json",
        lambda: [a_checkpoint()],
        on_disk("round.safetensors", open_checkpoint, lambda data: len(data).to_bytes(8, "little") + data),
        (NotACheckpointError, CheckpointDamagedError),
    ),
    Target(
        "local-work", ("peer/trainer/localwork.py load",), "json", of(localwork.LocalWork, "json"), saved_work
    ),
    Target(
        "watch",
        ("peer/watch_file.py decode",),
        "msgpack",
        of(watch_file._Rows),
        lambda data: watch_file.encode(watch_file.decode(watch_file.HEAD + blake3(data).digest() + data)),
        (watch_file.WatchFileError,),
    ),
    Target(
        "prepared",
        ("peer/trainer/prepared.py _load_meta",),
        "json",
        of(prepared._Meta, "json"),
        on_disk("meta.json", prepared_corpus),
    ),
    Target(
        "trainer",
        (
            "peer/trainer/protocol.py body_length",
            "peer/trainer/protocol.py decode_answer",
            "peer/trainer/protocol.py decode_command",
        ),
        "msgpack",
        lambda: itertools.chain(of(trainer.Command)(), of(trainer.Answer)()),
        lambda data: [
            read(data)
            for read in (
                trainer.decode_answer,
                trainer.decode_command,
                lambda body: trainer.body_length(
                    body[: trainer.PREFIX.size].ljust(trainer.PREFIX.size, b"x")
                ),
            )
        ],
        (ValueError,),
    ),
]
