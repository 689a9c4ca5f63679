"""Identities: key files, PeerIDs and signatures."""

import os
from pathlib import Path

import pytest
from fuzzing import examples
from hypothesis import given
from hypothesis import strategies as st

from talkoot.dht.errors import ConfigError
from talkoot.dht.identity import (
    Identity,
    key_of_multihash,
    key_of_peer_id,
    multihash_of,
    peer_id_of,
    verify,
)

SEED = bytes(range(32))


def test_golden_names() -> None:
    identity = Identity.from_seed(SEED)
    assert identity.key.hex() == "03a107bff3ce10be1d70dd18e74bc09967e4d6309ba50d5f1ddc8664125531b8"
    assert identity.peer_id == "12D3KooWA4Xop1JaT3MHxwYMkCepYsv4iPVopMXwCz5iHYdBfeSB"
    assert identity.libp2p_bytes() == bytes.fromhex("08011240") + SEED + identity.key
    assert SEED.hex() not in repr(identity)


@examples(100)
@given(st.binary(min_size=32, max_size=32))
def test_peer_ids_go_both_ways(key: bytes) -> None:
    assert key_of_peer_id(peer_id_of(key)) == key
    assert key_of_multihash(multihash_of(key)) == key


@pytest.mark.parametrize(
    "text",
    [
        "",
        "12D3KooW",
        "QmYyQSo1c1Ym7orWxLYvCrM2EmxFTANf8wXmmE7DWjhx5N",
        *("1" * 52, "0" * 52, "z" * 52, "12D3KooW" + "é" * 44),
    ],
)
def test_other_peer_ids_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="PeerID"):
        key_of_peer_id(text)


def test_signatures() -> None:
    identity = Identity.generate()
    signature = identity.sign(b"message")
    assert verify(identity.key, b"message", signature)
    assert not verify(identity.key, b"massage", signature)
    assert not verify(Identity.generate().key, b"message", signature)
    for bad in (b"", signature[:-1], signature + b"\0", bytes(64)):
        assert not verify(identity.key, b"message", bad)
    assert not verify(b"short", b"message", signature)


def test_a_key_file_is_made_once(tmp_path: Path) -> None:
    path = tmp_path / "new" / "identity.key"
    first = Identity.load_or_create(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert Identity.load_or_create(path).key == first.key


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "no Ed25519 key"),
        (Identity.from_seed(SEED).libp2p_bytes()[:-1], "no Ed25519 key"),
        (Identity.from_seed(SEED).libp2p_bytes() + b"\0", "no Ed25519 key"),
        (bytes.fromhex("080012a909") + bytes(1193), "an RSA key"),
        (Identity.from_seed(SEED).libp2p_bytes()[:-1] + b"\0", "damaged"),
    ],
)
def test_key_files_of_a_wrong_kind(tmp_path: Path, data: bytes, message: str) -> None:
    path = tmp_path / "key"
    path.touch(0o600)
    path.write_bytes(data)
    with pytest.raises(ConfigError, match=message):
        Identity.load_or_create(path)
    assert path.read_bytes() == data  # nothing damaged


def test_a_key_file_that_others_can_read(tmp_path: Path) -> None:
    path = tmp_path / "key"
    Identity.load_or_create(path)
    for mode in (0o640, 0o604, 0o660):
        path.chmod(mode)
        with pytest.raises(ConfigError, match="chmod 600"):
            Identity.load_or_create(path)


def test_places_without_a_key_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot read"):
        Identity.load_or_create(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="cannot"):
        Identity.load_or_create(tmp_path / "file" / "key")
    os.mkfifo(tmp_path / "pipe", 0o600)
    with pytest.raises(ConfigError, match="no regular file"):
        Identity.load_or_create(tmp_path / "pipe")
