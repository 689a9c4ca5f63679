"""Settings, addresses and the address book: what an operator or another peer may write."""

from pathlib import Path

import pytest

from talkoot.dht import addresses
from talkoot.dht.addresses import AddressBook
from talkoot.dht.config import NetworkConfig
from talkoot.dht.errors import ConfigError
from talkoot.dht.identity import Identity
from talkoot.dht.multiaddr import decode_address, parse_address

PEER = Identity.from_seed(b"p" * 32)
RELAY = Identity.from_seed(b"r" * 32)


@pytest.mark.parametrize(
    "text",
    [
        "/ip4/127.0.0.1/tcp/4001",
        "/ip6/::1/tcp/1",
        "/dns4/node.example.org/tcp/65535",
        f"/dns/a/tcp/4001/p2p/{PEER.peer_id}",
        f"/ip4/1.2.3.4/tcp/5/p2p/{RELAY.peer_id}/p2p-circuit",
        f"/ip4/1.2.3.4/tcp/5/p2p/{RELAY.peer_id}/p2p-circuit/p2p/{PEER.peer_id}",
    ],
)
def test_addresses_go_round(text: str) -> None:
    assert str(parse_address(text)) == text


@pytest.mark.parametrize(
    "text",
    [
        *("", "/", "/ip4", "ip4/1.2.3.4/tcp/1", "/ip4/1.2.3.4", "/ip4/1.2.3/tcp/1", "/ip4/1.2.3.4/udp/1"),
        *("/ip4/1.2.3.4/tcp/65536", "/ip4/1.2.3.4/tcp/-1", "/ip4/1.2.3.4/tcp/1/ws", "/tcp/1/tcp/1"),
        *("/dns/../tcp/1", "/dns/a b/tcp/1", "/unix/tmp/x/tcp/1", "/ip4/1.2.3.4/tcp/1/p2p/Qm"),
        "/ip6/fe80::1%eth0/tcp/1",
        "/dns/" + "a." * 200 + "/tcp/1",
    ],
)  # fmt: skip
def test_other_texts_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        parse_address(text)


def test_golden_binary_form() -> None:
    assert parse_address("/ip4/127.0.0.1/tcp/4001").to_bytes().hex() == "047f000001060fa1"
    assert parse_address("/dns/ab/tcp/1").to_bytes().hex() == "35026162060001"
    circuit = parse_address(f"/ip4/1.2.3.4/tcp/5/p2p/{RELAY.peer_id}/p2p-circuit").to_bytes()
    assert circuit.hex() == "0401020304060005" + "a50326" + "002408011220" + RELAY.key.hex() + "a202"
    assert decode_address(bytes.fromhex("047f000001060fa1")) == "/ip4/127.0.0.1/tcp/4001"
    for data in (b"", circuit, bytes.fromhex("047f00000191020fa1")):
        with pytest.raises(ValueError, match="plain TCP"):
            decode_address(data)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"port": 65536}, "port must be"),
        ({"bootstrap": ("/ip4/1.2.3.4/tcp/1",)}, "bootstrap: .* does not end in /p2p"),
        ({"bootstrap": ("nonsense",)}, "bootstrap: 'nonsense' is not an address"),
        ({"announce": ("/ip4/1.2.3.4/tcp/0",)}, "announce: .* needs a port"),
        ({"connections_low": 9, "connections_high": 8}, "connections_low"),
        ({"call_timeout_s": 0.0}, "call_timeout_s"),
    ],
)
def test_wrong_settings_are_named(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        NetworkConfig.home(**settings)


def test_presets() -> None:
    assert NetworkConfig.home().nat_port_map
    assert not NetworkConfig.lan(port=7).nat_port_map
    test = NetworkConfig.test()
    assert test.listen == ("127.0.0.1",)
    assert (test.nat_port_map, test.relay) == (False, False)


def test_the_address_book_is_bounded_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(addresses, "MAX_PEERS", 3)
    book = AddressBook()
    assert book.add(PEER.key, [f"/ip4/1.2.3.4/tcp/{port}" for port in range(1, 12)]) == 0
    assert len(book.of(PEER.key)) == addresses.MAX_ADDRESSES
    assert book.add(PEER.key, ["x", f"/ip4/9.9.9.9/tcp/1/p2p/{RELAY.peer_id}", "/ip4/1.2.3.4/tcp/99"]) == 2
    assert book.of(PEER.key)[0].port == 99
    for number in range(3):
        book.add(bytes([number]) * 32, ["/ip4/1.2.3.4/tcp/5"])
    assert book.of(PEER.key) == ()
    path = tmp_path / "peers.json"
    addresses.save(path, book.to_json())
    again = AddressBook()
    again.load(path)
    assert again.recent(9) == book.recent(9) == [bytes([number]) * 32 for number in (2, 1, 0)]


@pytest.mark.parametrize("text", ["", "[]", '{"12D3KooW": ["/ip4/1.2.3.4/tcp/1"]}', '{"a": 1}', "{" * 5000])
def test_a_damaged_file_of_peers_is_ignored(tmp_path: Path, text: str) -> None:
    path = tmp_path / "peers.json"
    path.write_text(text)
    book = AddressBook()
    book.load(path)
    book.load(tmp_path / "missing")
    assert book.recent(9) == []
