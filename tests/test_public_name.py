"""Public names: opt-in, plain, bounded, and no burden on peers that know nothing of them."""

from pathlib import Path

import pytest
from dht_rig import SWARM, record_of
from fuzzing import examples
from hypothesis import given
from hypothesis import strategies as st

from talkoot.dht.identity import Identity
from talkoot.dht.memory import MemoryHub
from talkoot.dht.records import PeerRecord
from talkoot.peer.names import MAX_NAMES, Names, read_names
from talkoot.peer.options import RunOptions
from talkoot.peer.public_name import check_name, is_name, split_version, version_text
from talkoot.peer.simulation.virtual_time import run_virtual

GOOD = ("Ada", "x", "Ada Lovelace", "node-7.b_2", "A" * 16)
BAD = ("", " Ada", "Ada ", "a  b", "A" * 17, "Ad\u00e4", "a(b)", "<b>", "a/b", "a\n", "\x1b[31m", "-a")


@pytest.mark.parametrize("name", GOOD)
def test_a_name_is_announced_behind_the_release(name: str, tmp_path: Path) -> None:
    check_name(name)
    assert split_version(version_text("0.1.0", name)) == ("0.1.0", name)
    assert RunOptions(state_dir=tmp_path, public_name=name).public_name == name


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_name_is_refused_here_and_not_shown_of_others(name: str, tmp_path: Path) -> None:
    assert not is_name(name)
    assert split_version(f"0.1.0 ({name})")[1] is None
    if name:
        with pytest.raises(ValueError, match="a public name has 1 to 16 letters"):
            RunOptions(state_dir=tmp_path, public_name=name)


def test_without_a_name_nothing_is_announced_but_the_release() -> None:
    assert version_text("0.1.0", "") == "0.1.0"
    assert version_text("0.1.0.dev12345+local", "A" * 16) == "0.1.0.dev12345+local"


@examples(60)
@given(st.text(max_size=40))
def test_whatever_is_announced_gives_a_plain_release_and_name(text: str) -> None:
    release, name = split_version(text)
    assert release.isascii()
    assert " " not in release
    assert name is None or (is_name(name) and version_text(release, name) == text)


def announced(count: int, name: str = "") -> dict[bytes, PeerRecord]:
    network = MemoryHub().node(Identity.from_seed(bytes(32)), swarm=SWARM)
    version = version_text("0.1.0", name)
    keys = (Identity.from_seed(number.to_bytes(32, "big")).key for number in range(count))
    return {key: record_of(network, key=key, version=version) for key in keys}


def test_names_are_kept_bounded_and_forgotten_with_the_wish(tmp_path: Path) -> None:
    async def main() -> None:
        path = tmp_path / "names.json"
        names = Names(path)
        names.note(announced(3))
        assert names.news() is None
        names.note(announced(3, "Ada"))
        data = names.news()
        assert data is not None
        names.write(data)
        assert list(read_names(path).values()) == ["Ada"] * 3
        names.note(announced(3))
        assert names.news() is None  # not so soon
        names.note(announced(MAX_NAMES + 5, "Bob"))
        assert len(names._names) == MAX_NAMES
        assert Names(path)._names == read_names(path)

    run_virtual(main())
