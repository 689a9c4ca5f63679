"""The yardstick of `trainer_gpu.py`: the training loop that one would write by hand."""

import argparse
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from talkoot.peer.manifest import Manifest
from talkoot.peer.trainer import memory, model, workplace
from talkoot.peer.trainer.protocol import TrainerSpec
from talkoot.peer.trainer.windows import sequence_seed

WARM_UP_STEPS = 5


def plain_loop(options: argparse.Namespace) -> dict[str, Any]:
    """Tokens a second over `options.seconds`, in `options.micro_batch` sequences at a time."""
    torch.set_num_threads(options.threads or memory.physical_cores())
    torch.backends.cuda.matmul.allow_tf32 = True
    manifest = workplace.load_manifest(options.plain)
    device = torch.device(options.device)
    built = model.build(manifest).to(device).train()
    optimizer = _optimizer(built, manifest)
    with TemporaryDirectory() as folder:
        spec = TrainerSpec(manifest_path=options.plain, state_dir=Path(folder), peer=bytes(32))
        corpus = workplace.make_corpus(manifest, spec, 256)
        seed, batch = sequence_seed(manifest.swarm_id, bytes(32), 0), manifest.inner.batch_size
        steps, began = 0, 0.0
        while steps <= WARM_UP_STEPS or time.monotonic() < began + options.seconds:
            if steps == WARM_UP_STEPS:
                _synchronize(device)
                began = time.monotonic()
            tokens = torch.from_numpy(corpus.training(seed, steps * batch, batch)).to(device)
            _step(built, optimizer, tokens, options.micro_batch, manifest.inner.clip_norm)
            steps += 1
        _synchronize(device)
        seconds = time.monotonic() - began
    tokens_made = (steps - WARM_UP_STEPS) * batch * manifest.data.sequence_length
    return {"tokens_per_s": tokens_made / seconds, "steps": steps - WARM_UP_STEPS}


def _optimizer(built: nn.Module, manifest: Manifest) -> torch.optim.Optimizer:
    inner = manifest.inner
    matrices = [p for p in built.parameters() if p.ndim >= 2]
    others = [p for p in built.parameters() if p.ndim < 2]
    return torch.optim.AdamW(
        [{"params": matrices, "weight_decay": inner.weight_decay}, {"params": others, "weight_decay": 0.0}],
        lr=inner.learning_rate,
        betas=(inner.beta1, inner.beta2),
        fused=True,
    )


def _step(
    built: nn.Module, optimizer: torch.optim.Optimizer, tokens: torch.Tensor, micro: int, clip: float
) -> None:
    optimizer.zero_grad(set_to_none=True)
    for part in torch.split(tokens, micro):
        with torch.autocast(tokens.device.type, dtype=torch.bfloat16, enabled=tokens.device.type == "cuda"):
            logits = built(input_ids=part[:, :-1], use_cache=False).logits
            loss = functional.cross_entropy(logits.flatten(0, 1), part[:, 1:].reshape(-1))
        (loss * len(part) / len(tokens)).backward()  # type: ignore[no-untyped-call]  # has no annotation
    nn.utils.clip_grad_norm_(built.parameters(), clip)
    optimizer.step()


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
