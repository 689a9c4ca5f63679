"""Which swarm a start of the daemon is for: found it, join it, or go on with what the state directory holds.

What can be wrong with that is said before the network is touched, and before anything is written where it
can be known by then.
"""

import logging
import time
from dataclasses import replace
from pathlib import Path

import msgspec

from talkoot.dht.errors import ConfigError
from talkoot.dht.identity import Identity
from talkoot.peer import admission, invite, manifest_file
from talkoot.peer.founding import found
from talkoot.peer.manifest import Manifest, from_canonical
from talkoot.peer.node import Membership
from talkoot.peer.options import RunOptions
from talkoot.peer.requirements import require_admission, require_data, require_device, require_tokenizer
from talkoot.peer.small_files import cannot_write, read_small, write_small
from talkoot.peer.statedir import StateDir
from talkoot.peer.store import OuterStore

log = logging.getLogger("talkoot.daemon")

SEALED_FILE = "swarm.toml"
"""The sealed manifest of a swarm that was founded here, for people to read and to pass on."""


def membership_of(options: RunOptions, paths: StateDir, identity: Identity) -> Membership:
    """What this start is for; founds the swarm where the manifest is a draft. Raises ConfigError."""
    if not options.observes:
        require_device(options.device)
    if options.join is not None:
        _join(options.join, paths, identity)
    elif options.manifest is not None:
        _take_manifest(options, options.manifest, paths, identity)
    membership = _from_state(options, paths)
    _require_contact(options, paths)
    if membership.manifest is not None:
        _require_usable(options, paths, identity, membership.manifest, membership.data_base)
    return membership


def _require_contact(options: RunOptions, paths: StateDir) -> None:
    """Raise ConfigError where this peer has no state, and has never heard of anybody who could give it."""
    known = (OuterStore.exists(paths.outer), options.bootstrap, paths.invite_file.exists())
    if not any(known) and not paths.peers_file.exists():
        raise ConfigError(
            "this peer holds no state of the swarm and knows nobody to ask for it: join with --join INVITE, "
            "or name a peer with --bootstrap ADDR"
        )


def _require_usable(
    options: RunOptions, paths: StateDir, identity: Identity, manifest: Manifest, base: Path | None
) -> None:
    if options.observes:
        return
    if not OuterStore.exists(paths.outer):
        require_admission(manifest, identity, read_small(paths.admission_file) or b"")
    if base is not None or options.data_paths:
        require_data(manifest, base or Path(), options.data_paths)


# -- a manifest --------------------------------------------------------------------------------------


def _take_manifest(options: RunOptions, path: Path, paths: StateDir, identity: Identity) -> None:
    manifest, base = manifest_file.load(path)
    if manifest.sealed:
        _require_contact(options, paths)
        _require_usable(options, paths, identity, manifest, base)
    else:
        manifest = _founded(manifest, base, options, paths, identity)
    paths.claim(manifest.swarm_id)
    paths.save_manifest(manifest.canonical())
    write_small(paths.base_file, str(base.resolve()).encode())


def _founded(
    draft: Manifest, base: Path, options: RunOptions, paths: StateDir, identity: Identity
) -> Manifest:
    """The sealed form of a draft: that which was founded here from it before, or a new swarm's."""
    known = _load_manifest(paths)
    if known is not None:
        _require_same_draft(draft, known, paths)
        return known
    if (swarm := paths.swarm_id) is not None:
        raise ConfigError(
            f"{paths.path} belongs to swarm {swarm.hex()[:12]}, which was not founded from this manifest: "
            "choose another --state-dir"
        )
    if not options.observes:
        require_data(draft, base, options.data_paths)
    require_tokenizer(draft, base)
    log.info("founding a swarm from %s", options.manifest)
    sealed = found(draft, base, paths, identity)
    target = paths.path / SEALED_FILE
    try:
        manifest_file.save(sealed, target)
    except OSError as error:
        raise cannot_write(target, error) from error
    log.info("swarm %s founded; its sealed manifest is %s", sealed.swarm_id.hex()[:12], target)
    return sealed


def _require_same_draft(draft: Manifest, sealed: Manifest, paths: StateDir) -> None:
    """A state directory that was founded from a draft goes on with it, but not with another one."""
    as_draft = replace(
        sealed,
        swarm=replace(sealed.swarm, founders=draft.swarm.founders),
        model=replace(sealed.model, layout=draft.model.layout, numel=draft.model.numel),
        data=replace(sealed.data, tokenizer=draft.data.tokenizer, tokenizer_hash=draft.data.tokenizer_hash),
    )
    if as_draft != draft:
        raise ConfigError(
            f"{paths.path} holds a swarm that was founded from another manifest: choose another --state-dir, "
            "or leave the manifest as it was"
        )


# -- an invite ---------------------------------------------------------------------------------------


def _join(text: str, paths: StateDir, identity: Identity) -> None:
    try:
        given = invite.decode(text)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    if given.key is not None and not OuterStore.exists(paths.outer):
        _require_fresh(given.key.token)
    paths.claim(given.swarm)
    if given.key is not None:
        proof = admission.prove(given.key.token, swarm=given.swarm, seed=given.key.seed, key=identity.key)
        write_small(paths.admission_file, proof)
    write_small(paths.invite_file, text.encode())


def _require_fresh(token: admission.Token) -> None:
    if time.time() > token.expires:
        date = time.strftime("%Y-%m-%d", time.gmtime(token.expires))
        raise ConfigError(
            f"the invite expired on {date}: ask for a new one (or is this machine's clock wrong?)"
        )


# -- what the state directory says -------------------------------------------------------------------


def _from_state(options: RunOptions, paths: StateDir) -> Membership:
    swarm = paths.swarm_id
    if swarm is None:
        raise ConfigError(f"{paths.path} holds no swarm yet: give a manifest or --join INVITE")
    manifest = _load_manifest(paths)
    if manifest is not None and manifest.swarm_id != swarm:
        raise ConfigError(
            f"{paths.manifest_file} is not the manifest of swarm {swarm.hex()[:12]}: "
            "move it away to fetch it from other peers again"
        )
    joined = _read_invite(paths.invite_file)
    addresses = (*options.bootstrap, *(joined.addresses if joined else ()))
    return Membership(
        swarm=swarm,
        manifest=manifest,
        bootstrap=tuple(dict.fromkeys(addresses)),
        anchor=joined.anchor if joined else None,
        admission=read_small(paths.admission_file) or b"",
        data_base=_read_folder(paths.base_file),
    )


def _read_invite(path: Path) -> invite.Invite | None:
    data = read_small(path)
    try:
        return None if data is None else invite.decode(data.decode())
    except ValueError as error:
        raise ConfigError(f"{path} is damaged: give the invite again with --join") from error


def _read_folder(path: Path) -> Path | None:
    data = read_small(path)
    try:
        return None if data is None else Path(data.decode())
    except ValueError as error:
        raise ConfigError(f"{path} is damaged: give the manifest again") from error


def _load_manifest(paths: StateDir) -> Manifest | None:
    """The manifest that a state directory holds. Raises ConfigError when it is damaged."""
    data = paths.load_manifest()
    if data is None:
        return None
    try:
        return from_canonical(data)
    except (ValueError, msgspec.DecodeError) as error:
        raise ConfigError(f"{paths.manifest_file} is damaged: {error}") from error
