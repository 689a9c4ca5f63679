"""What a trainer works with: the engine and the corpus of a manifest, checked against each other."""

from pathlib import Path

import numpy as np

from talkoot.dht.errors import ConfigError
from talkoot.peer.manifest import MAX_MANIFEST_BYTES, Manifest, from_canonical
from talkoot.peer.trainer import data, tokenizer
from talkoot.peer.trainer.engine import Engine
from talkoot.peer.trainer.layout import Flat
from talkoot.peer.trainer.protocol import TrainerSpec


def load_manifest(path: Path) -> Manifest:
    """The manifest whose canonical bytes lie in `path`. Raises ConfigError."""
    try:
        with path.open("rb") as file:
            return from_canonical(file.read(MAX_MANIFEST_BYTES + 1))
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise ConfigError(f"{path}: {error}") from error


def make_engine(
    manifest: Manifest,
    *,
    device: str = "auto",
    threads: int = 0,
    memory_limit_bytes: int = 0,
    headroom_bytes: int = 0,
) -> Engine:
    """The engine for `model.kind`; torch is imported only where it is needed.

    Raises ConfigError when the model does not build, NoMemory when it does not fit.
    """
    if manifest.model.kind == "numpy":
        from talkoot.peer.trainer.numpy_engine import NumpyEngine

        return NumpyEngine(manifest)
    from talkoot.peer.trainer.torch_engine import TorchEngine

    return TorchEngine(
        manifest,
        device=device,
        threads=threads,
        memory_limit_bytes=memory_limit_bytes,
        headroom_bytes=headroom_bytes,
    )


def base_of(spec: TrainerSpec) -> Path:
    """Folder that relative paths of the manifest start from."""
    return spec.base_dir or spec.manifest_path.parent


def make_corpus(manifest: Manifest, spec: TrainerSpec, vocab_size: int) -> data.Corpus:
    """The corpus, its token files kept in the trainer's folder. Raises ConfigError, OSError."""
    tokens = tokenizer.load(manifest.data, base_of(spec))
    tokenizer.require_fit(tokens, vocab_size if manifest.data.source != "tokens" else tokens.vocab_size)
    return data.open_corpus(
        manifest.data,
        tokens,
        folder=spec.state_dir / "tokens",
        base=base_of(spec),
        vocab_size=vocab_size,
        own_paths=spec.data_paths,
    )


def map_vector(path: Path, numel: int) -> Flat:
    """Map a file of `numel` little-endian float32; changes stay private.

    Raises ValueError when it has another size, OSError when it cannot be read.
    """
    size = path.stat().st_size
    if size != 4 * numel:
        raise ValueError(f"{path} has {size} bytes instead of {4 * numel}")
    return np.memmap(path, dtype="<f4", mode="c", shape=(numel,))
