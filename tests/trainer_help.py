"""Small manifests, data and engines for the trainer's tests."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from talkoot.peer.manifest import Data, Inner, Manifest, Model, Outer, Swarm
from talkoot.peer.trainer import workplace
from talkoot.peer.trainer.layout import describe
from talkoot.peer.trainer.protocol import TrainerSpec
from talkoot.peer.trainer.session import Session

PEER = b"p" * 32

LLAMA: dict[str, Any] = {
    "model_type": "llama",
    "vocab_size": 256,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "tie_word_embeddings": True,
}


def write_text(folder: Path, *, documents: int = 60) -> None:
    """Text files `doc-*.txt` with enough words for held-out ones at 20 percent."""
    for number in range(documents):
        words = " ".join(f"word{number * i % 97} of {number}" for i in range(60))
        (folder / f"doc-{number}.txt").write_text(words + "\n", encoding="utf-8")


def make_manifest(kind: str = "numpy", *, seal: bool = True, step_ms: int = 0, **inner: Any) -> Manifest:
    """A sealed manifest over text files beside it: a tiny Llama, or the numpy model, whose steps take
    `step_ms` at least."""
    settings: dict[str, Any] = {"batch_size": 4, "learning_rate": 1e-2, "warmup_steps": 2, **inner}
    config = LLAMA if kind == "transformers" else {"vocab_size": 256, "hidden": 8, "step_ms": step_ms}
    manifest = Manifest(
        swarm=Swarm(name="test", founders=("founder",)),
        model=Model(kind=kind, config=config),  # type: ignore[arg-type]
        data=Data(source="text", paths=("doc-*.txt",), sequence_length=16, held_out_percent=20),
        inner=Inner(**settings),
        outer=Outer(inner_steps=10),
    )
    if not seal:
        return manifest
    layout, numel = describe(manifest)
    return replace(manifest, model=replace(manifest.model, layout=layout, numel=numel))


def write_manifest(manifest: Manifest, folder: Path) -> Path:
    """The canonical file, with text files beside it."""
    write_text(folder)
    path = folder / "manifest.bin"
    path.write_bytes(manifest.canonical())
    return path


def make_spec(manifest: Manifest, folder: Path, **fields: Any) -> TrainerSpec:
    """A spec for one CPU thread, everything below `folder`."""
    settings: dict[str, Any] = {"device": "cpu", "threads": 1, **fields}
    return TrainerSpec(
        manifest_path=write_manifest(manifest, folder), state_dir=folder / "trainer", peer=PEER, **settings
    )


def make_session(manifest: Manifest, folder: Path) -> Session:
    """A session in this process."""
    spec = make_spec(manifest, folder)
    spec.state_dir.mkdir(exist_ok=True)
    engine = workplace.make_engine(manifest, device="cpu", threads=1)
    corpus = workplace.make_corpus(manifest, spec, engine.vocab_size)
    return Session(manifest, engine, corpus, state_dir=spec.state_dir, peer=PEER)


def write_vector(path: Path, numel: int, seed: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    """A file of small random parameters; returns them."""
    flat = 0.05 * np.random.default_rng(seed).standard_normal(numel, dtype=np.float32)
    flat.astype("<f4").tofile(path)
    return flat


def local_of(session: Session) -> np.ndarray[Any, np.dtype[np.float32]]:
    """A copy of the local parameters."""
    return np.concatenate([np.array(chunk) for chunk in session.engine.chunks()])
