"""docs/compression.md says of every codec what the codec says of itself."""

from pathlib import Path

import pytest

from talkoot.compression.codec import NAMES, get

PAGE = (Path(__file__).parent.parent / "docs" / "compression.md").read_text()
NUMEL, PEERS, UPLINKS = 100_000_000, 4, (10, 20, 40, 100)


def rows(title: str) -> list[list[str]]:
    """Cells of the table below `title`, without code marks."""
    table = PAGE.split(title, 1)[1].split("\n\n", 1)[0]
    return [
        [cell.strip().replace("`", "") for cell in line.split("|")[1:-1]] for line in table.splitlines()[2:]
    ]


LINKS = rows("| codec | aggregate | exchange |")
WIRE = rows("| codec | bits | after the 12 bytes |")


@pytest.mark.parametrize("row", LINKS, ids=lambda row: "-".join(row[:2]))
def test_seconds_on_a_link(row: list[str]) -> None:
    codec, aggregate, exchange, megabytes, *seconds = row
    size = get(codec).encoded_size(NUMEL)
    assert megabytes == f"{size / 1e6:.1f}"
    if exchange == "sparse":
        sent = (PEERS - 1) * size
    else:
        sent = (PEERS - 1) * (size + get(aggregate).encoded_size(NUMEL)) // PEERS
    assert seconds == [f"{8 * sent / (uplink * 1e6):.3g}" for uplink in UPLINKS]


def test_every_codec_is_described_with_its_bits() -> None:
    bits: dict[str, str] = {}
    for names, several, _ in WIRE:
        kinds = [name for name in names.split(", ") if ":" not in name]
        bits |= dict(zip(kinds, several.split(", "), strict=True))
    assert sorted(bits) == sorted(NAMES)
    for name, told in bits.items():
        assert float(told) == pytest.approx(8 * get(name).encoded_size(NUMEL) / NUMEL, rel=0.003)
