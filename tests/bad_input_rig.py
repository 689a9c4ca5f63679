"""Starts of the daemon that are to fail, in this process: exit code, the one line, what the log says."""

import logging
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch

from talkoot.cli import main as main_module
from talkoot.dht.identity import Identity
from talkoot.peer import admission, founding, invite, manifest_file, presets
from talkoot.peer.manifest import Manifest
from talkoot.peer.statedir import StateDir


@dataclass(frozen=True)
class Outcome:
    """How `talkoot ...` ended."""

    code: int
    line: str
    """The one line for people, without its `talkoot: `."""
    log: str
    """The lines of the log."""


@contextmanager
def _settings_kept() -> Iterator[None]:
    """The daemon sets up logging and torch for a process of its own."""
    root, threads, arguments = logging.getLogger(), torch.get_num_threads(), sys.argv
    handlers, level = root.handlers[:], root.level
    signals = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        root.handlers[:], sys.argv = handlers, arguments
        root.setLevel(level)
        torch.set_num_threads(threads)
        for number, handler in signals.items():
            signal.signal(number, handler)


def refused(capsys: pytest.CaptureFixture[str], *arguments: object, unforeseen: bool = False) -> Outcome:
    """Run `talkoot ARGUMENTS`, which is to fail with one line; the log has a traceback only if unforeseen."""
    capsys.readouterr()
    with _settings_kept():
        sys.argv = ["talkoot", *map(str, arguments)]
        with pytest.raises(SystemExit) as caught:
            main_module.main()
    lines = capsys.readouterr().err.splitlines()
    told = [line for line in lines if line.startswith("talkoot: ")]
    log = [line for line in lines if line.startswith("{")]
    assert unforeseen == ("Traceback" in "".join(log)), lines
    assert len(told) == 1, lines
    assert len(told) + len(log) == len(lines), lines
    assert len(told[0]) < 400, told
    assert isinstance(caught.value.code, int)
    return Outcome(caught.value.code, told[0].removeprefix("talkoot: "), "\n".join(log))


def ended(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[object, list[str]]:
    """Run `talkoot ARGUMENTS` to its end: the exit code, and what stood on stderr."""
    capsys.readouterr()
    with _settings_kept():
        sys.argv = ["talkoot", *map(str, arguments)]
        with pytest.raises(SystemExit) as caught:
            main_module.main()
    return caught.value.code, capsys.readouterr().err.splitlines()


def draft(folder: Path, **sections: dict[str, object]) -> Path:
    """A draft manifest of the numpy model in `folder`, with values of sections changed."""
    manifest = presets.make("numpy-test", name="test")
    for section, values in sections.items():
        manifest = replace(manifest, **{section: replace(getattr(manifest, section), **values)})
    return written(folder, manifest)


def written(folder: Path, manifest: Manifest) -> Path:
    """`manifest` as a file in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / manifest_file.FILE_NAME
    manifest_file.save(manifest, path)
    return path


def tree(folder: Path) -> dict[str, bytes]:
    """Every file below `folder`, but the lock, which names the last process that held it."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "lock"
    }


def found_in(folder: Path) -> Path:
    """Found a swarm in `folder`/state, its sealed manifest in `folder`/swarm.toml; returns `folder`."""
    paths = StateDir(folder / "state")
    paths.prepare()
    identity = Identity.load_or_create(paths.key_file)
    sealed = founding.found(presets.make("numpy-test", name="test"), folder, paths, identity)
    manifest_file.save(sealed, folder / "swarm.toml")
    return folder


def sealed_of(founded: Path) -> Manifest:
    manifest, _ = manifest_file.load(founded / "swarm.toml")
    return manifest


def dead_address() -> str:
    """Where nobody listens, as the address of a peer."""
    return f"/ip4/127.0.0.1/tcp/9/p2p/{Identity.generate().peer_id}"


def invite_to(
    founded: Path, *, expires: float | None = None, key: bool = True, swarm: bytes | None = None
) -> str:
    """An invite of the founder of `founded`."""
    swarm = swarm or sealed_of(founded).swarm_id
    founder = Identity.load_or_create(founded / "state" / "identity.key")
    seed = os.urandom(32)
    when = int(time.time() + 3600 if expires is None else expires)
    token = admission.issue(founder, swarm=swarm, seed=seed, expires=when)
    return invite.encode(
        invite.Invite(swarm, (dead_address(),), key=invite.InviteKey(seed, token) if key else None)
    )
