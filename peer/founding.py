"""Founding a swarm: seal the manifest, make the first weights, sign the genesis certificate.

Building the model needs transformers, which stays out of the daemon: `python -m talkoot.peer.founding`
does it in a process of its own and writes the flat weights to a file.
"""

import json
import logging
import os
import shutil
import subprocess
import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import torch

from talkoot.averaging.certificate import genesis
from talkoot.averaging.digest import state_tree
from talkoot.averaging.ledger import Ledger
from talkoot.compression.arithmetic import ARITHMETIC_VERSION
from talkoot.dht.errors import ConfigError
from talkoot.dht.identity import Identity
from talkoot.peer.checkpoint_file import CheckpointFile
from talkoot.peer.files import atomic_write
from talkoot.peer.generation import map_file
from talkoot.peer.manifest import Manifest
from talkoot.peer.residual import DISK_BYTES_PER_ELEMENT
from talkoot.peer.restoring import parameters
from talkoot.peer.rules_of import first_codecs
from talkoot.peer.statedir import StateDir
from talkoot.peer.store import OuterStore

log = logging.getLogger("talkoot.node")

BUILD_TIMEOUT_S = 1800.0
"""How long building the model may take."""

TOLD = 2
"""Exit code of the process that builds when the last line on its stderr says all."""

TOKENIZER_FILE = "tokenizer.json"
"""Where every peer of a sealed swarm keeps its tokenizer, in the state directory."""


def first_ledger(manifest: Manifest, founders: tuple[bytes, ...]) -> Ledger:
    """The ledger before round 0."""
    codec, aggregate_codec = first_codecs(manifest)
    voters = tuple(sorted(founders))
    return Ledger(
        swarm=manifest.swarm_id,
        arithmetic=ARITHMETIC_VERSION,
        round=0,
        voters=voters,
        absent=(0,) * len(voters),
        global_step=0,
        tokens=0,
        reference_steps=manifest.outer.inner_steps,
        codec=codec,
        aggregate_codec=aggregate_codec,
    )


def found(
    draft: Manifest,
    base: Path,
    paths: StateDir,
    identity: Identity,
    checkpoint: CheckpointFile | None = None,
) -> Manifest:
    """Seal a draft and create its first outer state in the state directory; returns the sealed manifest.

    The first parameters are made from `inner.seed`, or those of a verified checkpoint of any swarm that
    trains the same model; momentum begins at zero either way.

    What a founding that was cut off left behind is removed first: it has no manifest, so nobody knew of it.
    Raises ConfigError when the model does not build or is not the checkpoint's, the tokenizer is missing,
    or the disk is too small.
    """
    weights = paths.path / "founding.f32"
    try:
        shutil.rmtree(paths.outer, ignore_errors=True)
        return _found(draft, base, paths, identity, weights, checkpoint)
    except OSError as error:
        raise ConfigError(
            f"cannot write the first state to {paths.path}: {error.strerror or error}"
        ) from error
    finally:
        with suppress(OSError):
            weights.unlink(missing_ok=True)


def _found(
    draft: Manifest,
    base: Path,
    paths: StateDir,
    identity: Identity,
    weights: Path,
    checkpoint: CheckpointFile | None,
) -> Manifest:
    layout, numel, tokenizer_hash = _build(draft, base, weights, make=checkpoint is None)
    if checkpoint is not None:
        _require_same_model(checkpoint, layout, numel, tokenizer_hash)
    sealed = replace(
        draft,
        swarm=replace(draft.swarm, founders=(identity.peer_id,)),
        model=replace(draft.model, layout=layout, numel=numel),
        data=replace(
            draft.data,
            tokenizer_hash=tokenizer_hash,
            tokenizer=TOKENIZER_FILE if tokenizer_hash else draft.data.tokenizer,
        ),
    )
    if tokenizer_hash:
        atomic_write(paths.path / TOKENIZER_FILE, (base / draft.data.tokenizer).read_bytes())
    founders = (identity.key,)
    ledger = first_ledger(sealed, founders)
    initial = 4 * numel  # the drawn parameters, until they are in the store
    paths.require_free(OuterStore.needed_bytes(numel) + DISK_BYTES_PER_ELEMENT * numel + initial)
    theta = map_file(weights, numel) if checkpoint is None else parameters(checkpoint)
    digest = state_tree(theta, torch.zeros(numel), ledger.encode()).digest
    certificate = genesis(sealed.swarm_id, digest, founders, identity)
    OuterStore.create(paths.outer, numel, theta, ledger=ledger.encode(), certificate=certificate.encode())
    paths.save_manifest(sealed.canonical())
    paths.claim(sealed.swarm_id)
    return sealed


def _require_same_model(checkpoint: CheckpointFile, layout: str, numel: int, tokenizer_hash: str) -> None:
    """Raise ConfigError where the checkpoint's parameters are another model's."""
    model, data = checkpoint.contents.manifest.model, checkpoint.contents.manifest.data
    if (model.layout, model.numel) != (layout, numel):
        raise ConfigError(
            f"{checkpoint.path} is of another model, with {model.numel} parameters; this one has {numel}"
            + (" of other names or shapes" if model.numel == numel else "")
        )
    if data.tokenizer_hash != tokenizer_hash:
        log.warning("%s was trained with another tokenizer than this manifest names", checkpoint.path)


def _build(draft: Manifest, base: Path, weights: Path, *, make: bool) -> tuple[str, int, str]:
    """Build the model in a process of its own, and `make` its weights.

    Returns layout hash, number of parameters, tokenizer hash.
    """
    command = [sys.executable, "-m", "talkoot.peer.founding", str(base), *([str(weights)] if make else [])]
    environment = os.environ | {"TORCHINDUCTOR_CACHE_DIR": str(weights.parent / "trainer" / "compiled")}
    try:
        done = subprocess.run(  # noqa: S603 - ourselves
            command,
            input=draft.canonical(),
            capture_output=True,
            timeout=BUILD_TIMEOUT_S,
            check=False,
            env=environment,
        )
    except subprocess.TimeoutExpired as error:
        raise ConfigError(f"the model was not built within {BUILD_TIMEOUT_S:.0f} s") from error
    if done.returncode != 0:
        raise ConfigError(_why(done.returncode, done.stderr.decode(errors="replace").strip().splitlines()))
    answer = json.loads(done.stdout)
    return answer["layout"], answer["numel"], answer["tokenizer_hash"]


def _why(code: int, lines: list[str]) -> str:
    if code == TOLD and lines:
        return lines[-1]
    if code < 0:
        return f"building the model was ended by signal {-code}: is there enough memory for it?"
    return f"the model cannot be built: {lines[-1] if lines else 'no reason given'}"


def _main(base: Path, weights: Path | None = None) -> None:
    from talkoot.peer.manifest import from_canonical
    from talkoot.peer.trainer.layout import describe, initial_weights
    from talkoot.peer.trainer.tokenizer import read_file, tokenizer_hash

    manifest = from_canonical(sys.stdin.buffer.read())
    layout, numel = describe(manifest)
    if weights is not None:
        weights.write_bytes(initial_weights(manifest).data.cast("B"))
    known = manifest.data.tokenizer
    hashed = "" if known == "bytes" else tokenizer_hash(read_file(base / known))
    answer = {"layout": layout, "numel": numel, "tokenizer_hash": hashed}
    sys.stdout.write(json.dumps(answer))


if __name__ == "__main__":
    try:
        _main(*map(Path, sys.argv[1:]))
    except (ConfigError, OSError) as failure:
        sys.stderr.write(" ".join(str(failure).split()) + "\n")
        sys.exit(TOLD)
