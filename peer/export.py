"""A `transformers` checkpoint from the flat parameter vector, for people who never heard of the swarm.

The directory holds config.json, generation_config.json, model.safetensors, a tokenizer and a model card;
`AutoModelForCausalLM.from_pretrained` and `AutoTokenizer.from_pretrained` load it without remote code.
"""

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers.utils.logging import disable_progress_bar

from talkoot.dht.errors import ConfigError
from talkoot.peer.manifest import Manifest
from talkoot.peer.model_card import model_card
from talkoot.peer.trainer import model, tokenizer
from talkoot.peer.trainer.layout import Flat, require_match

CONTEXT_FALLBACK = 2048
"""`model_max_length` of the tokenizer where the model does not name its context."""


def export(
    manifest: Manifest,
    theta: Flat,
    out_dir: Path,
    info: Mapping[str, str | int | float],
    *,
    base_dir: Path | None = None,
) -> None:
    """Write the checkpoint to `out_dir`, which must be missing or empty; it appears only when complete.

    `theta` has `model.numel` float32 elements. `info` (round, digest, loss, ...) goes to the model card.
    `base_dir`: folder of the manifest, for its `tokenizer.json`. Raises ConfigError, OSError.
    """
    if manifest.model.kind != "transformers":
        raise ConfigError("model.kind 'numpy' is for tests; there is nothing that transformers could load")
    _require_empty(out_dir)
    built = load(manifest, theta)
    fresh = out_dir.with_name(f".{out_dir.name}.new")
    shutil.rmtree(fresh, ignore_errors=True)
    try:
        fresh.mkdir(parents=True)
        _name_separator(built, tokenizer.load(manifest.data, base_dir or Path()).separator)
        disable_progress_bar()
        built.save_pretrained(fresh)  # type: ignore[operator]
        _write_tokenizer(manifest, fresh, base_dir)
        (fresh / "README.md").write_text(model_card(manifest, info), encoding="utf-8")
        for weights in fresh.glob("*.safetensors"):  # written for us alone; others shall load it
            weights.chmod((fresh / "README.md").stat().st_mode)
        if out_dir.exists():
            out_dir.rmdir()
        fresh.replace(out_dir)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def load(manifest: Manifest, theta: Flat) -> nn.Module:
    """The manifest's model with the parameters `theta` (copied), in evaluation mode.

    Raises ConfigError when model or vector are not the swarm's.
    """
    built = model.build(manifest)
    layout = model.layout_of(built)
    if manifest.model.layout:
        require_match(layout, manifest)
    if theta.shape != (layout.numel,):
        raise ConfigError(f"{theta.size} parameters were given; the model has {layout.numel}")
    parameters = dict(built.named_parameters())
    with torch.no_grad():
        for slot in layout:
            values = torch.from_numpy(np.array(theta[slot.span], dtype=np.float32))
            parameters[slot.name].copy_(values.view(slot.shape))
    return built.eval()


def _name_separator(built: Any, separator: int) -> None:
    """Let `generate` stop where a document ends; there is no other special token."""
    for config in (built.config, built.generation_config):
        config.bos_token_id = None
        config.pad_token_id = None
        config.eos_token_id = separator


def _require_empty(out_dir: Path) -> None:
    if out_dir.is_symlink() or (out_dir.exists() and not out_dir.is_dir()):
        raise ConfigError(f"{out_dir} is not a directory")
    if out_dir.exists() and any(out_dir.iterdir()):
        raise ConfigError(f"{out_dir} is not empty; choose another directory")


def byte_tokenizer() -> Any:
    """A `tokenizers` tokenizer whose ids are bytes: every text goes through and back unchanged."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    vocabulary = {character: byte for byte, character in enumerate(_byte_characters())}
    inner = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    inner.decoder = decoders.ByteLevel()
    return inner


def _byte_characters() -> list[str]:
    """GPT-2's printable character for each byte (Radford et al. 2019, encoder.py), in order of bytes."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    characters = []
    shifted = 0
    for byte in range(256):
        if byte in printable:
            characters.append(chr(byte))
        else:
            characters.append(chr(256 + shifted))
            shifted += 1
    return characters


def _write_tokenizer(manifest: Manifest, folder: Path, base_dir: Path | None) -> None:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    if manifest.data.tokenizer == "bytes":
        inner = byte_tokenizer()
    else:
        tokenizer.load(manifest.data, base_dir or Path())  # checks the hash
        inner = Tokenizer.from_file(os.fspath((base_dir or Path()) / manifest.data.tokenizer))
    length = manifest.model.config.get("max_position_embeddings", CONTEXT_FALLBACK)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=inner, model_max_length=length, clean_up_tokenization_spaces=False
    )
    fast.save_pretrained(folder)
