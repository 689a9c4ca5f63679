"""A real pseudo-gradient for benchmarks: of the preset `tiny`, a transformer over bytes, made when asked."""

from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from talkoot.peer import presets
from talkoot.peer.trainer.engine import Engine, learning_rate
from talkoot.peer.trainer.layout import Flat
from talkoot.peer.trainer.protocol import TrainerSpec
from talkoot.peer.trainer.windows import sequence_seed
from talkoot.peer.trainer.workplace import make_corpus, make_engine

FIRST_STEPS = 30
"""Steps before the round that is recorded: warm-up is over then, and the loss falls fast."""

ROUND_STEPS = 30
"""Steps of the round that is recorded: H of the preset."""


def record(*, first_steps: int = FIRST_STEPS, round_steps: int = ROUND_STEPS) -> Flat:
    """Parameters before a round less those after it: 370,848 elements, the same on each run of one machine.

    Takes about 10 s on one core. Raises ConfigError where the model does not build.
    """
    manifest = presets.make("tiny", name="bench")
    manifest = replace(manifest, inner=replace(manifest.inner, warmup_steps=first_steps))
    engine = make_engine(manifest, device="cpu", threads=1)
    with TemporaryDirectory() as folder:
        spec = TrainerSpec(manifest_path=Path(folder) / "none", state_dir=Path(folder), peer=bytes(32))
        corpus = make_corpus(manifest, spec, engine.vocab_size)
        seed, batch = sequence_seed(bytes(32), bytes(32), 0), manifest.inner.batch_size
        before = _local(engine)
        for step in range(first_steps + round_steps):
            if step == first_steps:
                before = _local(engine)
            engine.step(corpus.training(seed, step * batch, batch), learning_rate(manifest, step, None))
    return before - _local(engine)


def _local(engine: Engine) -> Flat:
    return np.concatenate([np.array(chunk) for chunk in engine.chunks()])
