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
from talkoot.peer import admission, invite, manifest_file, restorable
from talkoot.peer.belonging import Membership
from talkoot.peer.checkpoint_file import CheckpointFile
from talkoot.peer.founding import TOKENIZER_FILE, found
from talkoot.peer.manifest import Manifest, from_canonical
from talkoot.peer.options import RunOptions
from talkoot.peer.requirements import require_admission, require_data, require_device, require_tokenizer
from talkoot.peer.restoring import bring_tokenizer, restore
from talkoot.peer.rules_of import listed_keys
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
    file = restorable.read(options.checkpoint) if options.checkpoint is not None else None
    if file is not None:
        restorable.require_no_state(paths)
    if file is not None and not _founds(options, file, paths, identity):
        _restore(options, file, paths, identity)
    elif options.join is not None:
        _join(options.join, paths, identity)
    elif options.manifest is not None:
        _take_manifest(options, options.manifest, paths, identity, file)
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


def _take_manifest(
    options: RunOptions, path: Path, paths: StateDir, identity: Identity, weights: CheckpointFile | None
) -> None:
    manifest, base = manifest_file.load(path)
    if manifest.sealed:
        _require_contact(options, paths)
        _require_usable(options, paths, identity, manifest, base)
    else:
        manifest = _founded(manifest, base, options, paths, identity, weights)
    paths.claim(manifest.swarm_id)
    paths.save_manifest(manifest.canonical())
    write_small(paths.base_file, str(base.resolve()).encode())


def _founded(
    draft: Manifest,
    base: Path,
    options: RunOptions,
    paths: StateDir,
    identity: Identity,
    weights: CheckpointFile | None,
) -> Manifest:
    """The sealed form of a draft: that which was founded here from it before, or a new swarm's, which begins
    with the parameters of a checkpoint if one is given."""
    known = load_manifest(paths)
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
    listed_keys(draft)
    if weights is not None:
        restorable.require_whole(weights)
        rounds, before = weights.contents.ledger.round, weights.contents.manifest.swarm.name
        log.info("the first parameters are those of swarm %s after %d rounds", before, rounds)
    log.info("founding a swarm from %s", options.manifest)
    sealed = found(draft, base, paths, identity, weights)
    target = paths.path / SEALED_FILE
    try:
        manifest_file.save(sealed, target)
    except OSError as error:
        raise cannot_write(target, error) from error
    log.info("swarm %s founded; its sealed manifest is %s", sealed.swarm_id.hex()[:12], target)
    return sealed


def _require_same_draft(draft: Manifest, sealed: Manifest, paths: StateDir) -> None:
    """A state directory that was founded from a draft goes on with it, but not with another one."""
    if not _is_from(draft, sealed):
        raise ConfigError(
            f"{paths.path} holds a swarm that was founded from another manifest: choose another --state-dir, "
            "or leave the manifest as it was"
        )


def _is_from(draft: Manifest, sealed: Manifest) -> bool:
    """Whether a swarm may have been founded from a draft: but for what is filled in they are the same."""
    as_draft = replace(
        sealed,
        swarm=replace(sealed.swarm, founders=draft.swarm.founders),
        model=replace(sealed.model, layout=draft.model.layout, numel=draft.model.numel),
        data=replace(sealed.data, tokenizer=draft.data.tokenizer, tokenizer_hash=draft.data.tokenizer_hash),
    )
    return as_draft == draft


# -- a checkpoint ------------------------------------------------------------------------------------


def _founds(options: RunOptions, file: CheckpointFile, paths: StateDir, identity: Identity) -> bool:
    """Whether the manifest is the draft of another swarm than the checkpoint's."""
    if options.manifest is None:
        return False
    manifest, _ = manifest_file.load(options.manifest)
    if manifest.sealed or paths.swarm_id == file.contents.manifest.swarm_id:
        return False
    ours = identity.peer_id in file.contents.manifest.swarm.founders
    return not (ours and _is_from(manifest, file.contents.manifest))


def _restore(options: RunOptions, file: CheckpointFile, paths: StateDir, identity: Identity) -> None:
    """The checkpoint becomes our state of its swarm. Until all is known to be well nothing is written."""
    manifest, base = file.contents.manifest, None
    if options.manifest is not None:
        given, base = manifest_file.load(options.manifest)
        if given.sealed:
            _require_same_swarm(file, given.swarm_id, f"{options.manifest} is the manifest")
        else:
            _require_same_draft(given, manifest, paths)
    joined = _invite(options.join) if options.join is not None else _read_invite(paths.invite_file)
    if joined is not None:
        _require_same_swarm(file, joined.swarm, "the invite is one")
    if (swarm := paths.swarm_id) is not None:
        _require_same_swarm(file, swarm, f"{paths.path} is the state directory")
    if not options.observes:
        key = joined.key if joined is not None and options.join is not None else None
        if key is not None:
            _require_fresh(key.token)
        else:
            require_admission(manifest, identity, read_small(paths.admission_file) or b"")
        if base is not None or options.data_paths:
            require_data(manifest, base or Path(), options.data_paths)
    restorable.require_trust(file, paths, joined.anchor if joined is not None else None, identity.key)
    restorable.require_room(file, paths)
    restorable.require_whole(file)
    if options.join is not None:
        _join(options.join, paths, identity)
    paths.claim(manifest.swarm_id)
    paths.save_manifest(manifest.canonical())
    if base is not None:
        write_small(paths.base_file, str(base.resolve()).encode())
    folders = [file.path.absolute().parent, file.path.absolute().parent.parent, *([base] if base else [])]
    bring_tokenizer(file, paths.path / TOKENIZER_FILE, [folder / TOKENIZER_FILE for folder in folders])
    restore(file, paths)


def _require_same_swarm(file: CheckpointFile, swarm: bytes, where: str) -> None:
    here = file.contents.manifest
    if here.swarm_id != swarm:
        raise ConfigError(
            f"{file.path} is of swarm {here.swarm_id.hex()[:12]} ({here.swarm.name!r}), but {where} "
            f"of swarm {swarm.hex()[:12]}; a new swarm that begins with its parameters needs a draft manifest"
        )


# -- an invite ---------------------------------------------------------------------------------------


def _invite(text: str) -> invite.Invite:
    try:
        return invite.decode(text)
    except ValueError as error:
        raise ConfigError(str(error)) from error


def _join(text: str, paths: StateDir, identity: Identity) -> None:
    given = _invite(text)
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
    manifest = load_manifest(paths)
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
        relays=joined.relays if joined else (),
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


def load_manifest(paths: StateDir) -> Manifest | None:
    """The manifest that a state directory holds. Raises ConfigError when it is damaged."""
    data = paths.load_manifest()
    if data is None:
        return None
    try:
        return from_canonical(data)
    except (ValueError, msgspec.DecodeError) as error:
        raise ConfigError(f"{paths.manifest_file} is damaged: {error}") from error
