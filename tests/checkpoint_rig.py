"""Checkpoints of small swarms, without a node."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from state_rig import FOUNDERS, MANIFEST
from trainer_help import make_manifest

from talkoot.averaging.certificate import genesis
from talkoot.averaging.digest import state_tree
from talkoot.peer.checkpoint_write import write_checkpoint
from talkoot.peer.checkpoints import checkpoint_path, source_of
from talkoot.peer.founding import first_ledger
from talkoot.peer.holdings import Holdings, open_holdings
from talkoot.peer.manifest import Manifest
from talkoot.peer.rules_of import founder_keys, rules_of
from talkoot.peer.statedir import StateDir
from talkoot.peer.store import OuterStore
from talkoot.peer.trainer.layout import initial_weights


def model_manifest(**data: Any) -> Manifest:
    """A tiny Llama that the founders of `state_rig` train."""
    made = make_manifest("transformers")
    founders = tuple(founder.peer_id for founder in FOUNDERS)
    swarm = replace(made.swarm, founders=founders, name="little | llama", license="MIT")
    return replace(made, swarm=swarm, data=replace(made.data, **data))


def found_model(path: Path, manifest: Manifest) -> Holdings:
    """Its state directory, as the founder's daemon leaves it."""
    paths = StateDir(path)
    paths.prepare()
    paths.claim(manifest.swarm_id)
    paths.save_manifest(manifest.canonical())
    ledger = first_ledger(manifest, founder_keys(manifest))
    theta = torch.from_numpy(initial_weights(manifest))
    digest = state_tree(theta, torch.zeros(manifest.model.numel), ledger.encode()).digest
    start = genesis(manifest.swarm_id, digest, ledger.voters, FOUNDERS[0])
    OuterStore.create(
        paths.outer, manifest.model.numel, theta, ledger=ledger.encode(), certificate=start.encode()
    )
    return open_holdings(paths, rules_of(manifest))


def write(holdings: Holdings, folder: Path, manifest: Manifest = MANIFEST) -> Path:
    """A checkpoint of what is held."""
    folder.mkdir(exist_ok=True, parents=True)
    source = source_of(holdings, manifest)
    path = checkpoint_path(folder, source.contents.ledger.round)
    write_checkpoint(source, path)
    return path
