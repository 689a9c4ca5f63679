"""Starting from a checkpoint, up to the network: what the state directory holds then, and after a death."""

import shutil
from pathlib import Path

import pytest
import torch
from bad_input_rig import draft, invite_to, written
from restore_rig import Made, key_only, make

from talkoot.averaging.voting import Journal as Votes
from talkoot.dht.errors import ConfigError
from talkoot.dht.identity import Identity
from talkoot.peer import presets, restorable, restoring, unfinished
from talkoot.peer.belonging import Membership
from talkoot.peer.checkpoint_file import map_theta, open_checkpoint
from talkoot.peer.head import HEAD
from talkoot.peer.holdings import VOTER, Holdings, open_holdings
from talkoot.peer.journal import Journal
from talkoot.peer.membership import membership_of
from talkoot.peer.options import RunOptions
from talkoot.peer.recollection import FORGOT
from talkoot.peer.rules_of import rules_of
from talkoot.peer.statedir import StateDir
from talkoot.peer.store import OuterStore
from talkoot.peer.verify import verify


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return make(tmp_path_factory.mktemp("restore"))


def start(paths: StateDir, **options: object) -> Membership:
    """What a start of the daemon does before the network."""
    paths.prepare()
    identity = Identity.load_or_create(paths.key_file)
    return membership_of(RunOptions(state_dir=paths.path, profile="test", **options), paths, identity)  # type: ignore[arg-type]


def holdings_in(paths: StateDir, made: Made) -> Holdings:
    return open_holdings(paths, rules_of(made.manifest))


# -- the same swarm ------------------------------------------------------------------------------------


@pytest.mark.parametrize("given", ["nothing", "draft", "sealed"])
def test_a_founder_with_nothing_but_its_key(made: Made, tmp_path: Path, given: str) -> None:
    paths = key_only(made, tmp_path / "state")
    manifest = {
        "nothing": None,
        "draft": written(tmp_path / "draft", presets.make("numpy-test", name="test")),
        "sealed": made.folder / "swarm.toml",
    }[given]
    membership = start(paths, checkpoint=made.checkpoint, manifest=manifest)
    assert membership.swarm == made.manifest.swarm_id
    assert membership.manifest == made.manifest
    assert membership.data_base == (manifest.parent.resolve() if manifest else None)
    contents = open_checkpoint(made.checkpoint).contents
    holdings = holdings_in(paths, made)
    assert (holdings.ledger.round, holdings.digest) == (3, contents.certificate.value.digest)
    assert holdings.last_final() == contents.certificate
    assert holdings.certificate_of(1) == contents.before
    assert holdings.certificate_of(0) is None
    holdings.close()
    assert verify(paths.path).ok
    assert (paths.outer / HEAD).stat().st_mtime == made.checkpoint.stat().st_mtime
    again = start(paths)
    assert again.swarm == made.manifest.swarm_id


def test_the_first_state_is_one_too(made: Made, tmp_path: Path) -> None:
    paths = key_only(made, tmp_path / "state")
    start(paths, checkpoint=made.first)
    holdings = holdings_in(paths, made)
    assert (holdings.ledger.round, holdings.head.kind) == (0, "genesis")
    holdings.close()


def test_a_volunteer_with_an_invite(made: Made, tmp_path: Path) -> None:
    paths = StateDir(tmp_path / "state")
    membership = start(paths, checkpoint=made.checkpoint, join=invite_to(made.folder))
    assert membership.admission
    assert membership.bootstrap
    assert holdings_in(paths, made).ledger.round == 3


def test_an_archivist_needs_no_invite(made: Made, tmp_path: Path) -> None:
    paths = StateDir(tmp_path / "state")
    membership = start(paths, checkpoint=made.checkpoint, role="observer")
    assert membership.manifest == made.manifest
    assert holdings_in(paths, made).ledger.round == 3


def test_what_else_the_directory_holds_stays(made: Made, tmp_path: Path) -> None:
    """A log that knows more is cut, and kept in a copy; one that knows less goes on."""
    paths = key_only(made, tmp_path / "state", ["swarm", "manifest.bin", "rounds.log"])
    start(paths, checkpoint=made.checkpoint)
    holdings = holdings_in(paths, made)
    assert holdings.log.last == 3
    assert holdings.certificate_of(0) is not None
    assert holdings.certificate_of(3) is None
    holdings.close()
    assert (paths.path / restoring.LOG_AHEAD).read_bytes() == (made.state / "rounds.log").read_bytes()


def test_a_log_that_is_none_is_kept_aside(made: Made, tmp_path: Path) -> None:
    paths = key_only(made, tmp_path / "state")
    paths.round_log.write_bytes(b"nonsense")
    start(paths, checkpoint=made.checkpoint)
    assert (paths.path / "rounds.log.damaged").read_bytes() == b"nonsense"
    assert holdings_in(paths, made).ledger.round == 3


def test_a_download_that_was_cut_off_is_left_where_it_is(made: Made, tmp_path: Path) -> None:
    paths = key_only(made, tmp_path / "state")
    paths.outer.mkdir()
    unfinished.begin(paths.outer, bytes(32), "a")
    start(paths, checkpoint=made.checkpoint)
    assert holdings_in(paths, made).store.head.generation == "b"


# -- what it signed before -------------------------------------------------------------------------------


def voted_in(made: Made, paths: StateDir, number: int, prior: bytes) -> None:
    Journal(paths.journal).write(VOTER, Votes(round=number, prior=prior).encode())


@pytest.mark.parametrize("journal", ["none", "damaged", "later", "this"])
def test_who_may_have_signed_more_than_it_knows_notes_it(made: Made, tmp_path: Path, journal: str) -> None:
    paths = key_only(made, tmp_path / "state")
    digest = open_checkpoint(made.checkpoint).contents.certificate.value.digest
    if journal == "damaged":
        paths.journal.write_bytes(b"x")
    elif journal != "none":
        voted_in(made, paths, *((3, digest) if journal == "this" else (7, bytes(32))))
    start(paths, checkpoint=made.checkpoint)
    noted = Journal(paths.journal).read(FORGOT)
    assert noted == (None if journal == "this" else b"restored")


# -- a process that is killed ----------------------------------------------------------------------------


class Killed(BaseException):
    pass


def test_killed_at_any_step_it_begins_again(made: Made, tmp_path: Path) -> None:
    steps: list[str] = []
    file = restorable.read(made.checkpoint)
    restoring.restore(file, key_only(made, tmp_path / "whole"), hook=steps.append)
    assert len(steps) > 5
    for number, step in enumerate(steps):
        paths, seen = key_only(made, tmp_path / str(number)), iter(steps)

        def die(name: str, last: str = step, seen: object = seen) -> None:
            if name == last:
                raise Killed

        with pytest.raises(Killed):
            restoring.restore(file, paths, hook=die)
        if OuterStore.exists(paths.outer):
            with pytest.raises(ConfigError, match="holds the state after 3 rounds already"):
                restorable.require_no_state(paths)
        else:
            restorable.require_no_state(paths)
            restoring.restore(file, paths)
        assert holdings_in(paths, made).ledger.round == 3


def test_a_file_that_changes_while_it_is_copied(made: Made, tmp_path: Path) -> None:
    path = Path(shutil.copy(made.checkpoint, tmp_path / "x.safetensors"))
    file = restorable.read(path)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    paths = key_only(made, tmp_path / "state")
    with pytest.raises(ConfigError, match="it was changed meanwhile"):
        restoring.restore(file, paths)
    path.write_bytes(data[:-4])
    with pytest.raises(ConfigError, match="it became shorter while it was read"):
        restoring.restore(file, paths)
    assert not paths.outer.exists()


# -- a new swarm ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("role", ["full", "observer"])
def test_a_new_swarm_begins_with_the_parameters(made: Made, tmp_path: Path, role: str) -> None:
    paths = StateDir(tmp_path / "state")
    path = draft(tmp_path / "next", outer={"inner_steps": 21})
    membership = start(paths, checkpoint=made.checkpoint, manifest=path, role=role)
    assert membership.manifest is not None
    assert membership.swarm == membership.manifest.swarm_id != made.manifest.swarm_id
    holdings = open_holdings(paths, rules_of(membership.manifest))
    assert (holdings.ledger.round, holdings.head.kind) == (0, "genesis")
    theta = torch.from_numpy(map_theta(open_checkpoint(made.checkpoint)).copy())
    assert torch.equal(holdings.store.theta, theta)
    assert not holdings.store.momentum.any()
    assert holdings.ledger.voters == (Identity.load_or_create(paths.key_file).key,)
    holdings.close()
    assert verify(paths.path).ok
    assert start(paths, manifest=path).swarm == membership.swarm  # as any founder goes on


def test_another_founder_with_the_same_draft_founds_another_swarm(made: Made, tmp_path: Path) -> None:
    """A weak round is good enough for that."""
    paths = StateDir(tmp_path / "state")
    membership = start(paths, checkpoint=made.weak, manifest=draft(tmp_path / "same"))
    assert membership.swarm != made.manifest.swarm_id
    assert membership.manifest is not None
    assert membership.manifest.model == made.manifest.model
