"""One worker alone: the yardstick that a swarm is compared with, and the loss of a file of parameters.

`python -m talkoot.peer.trainer.solo --manifest FILE --steps N --json`
"""

import argparse
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec

from talkoot.dht.errors import ConfigError
from talkoot.peer import manifest_file
from talkoot.peer.manifest import Manifest
from talkoot.peer.trainer import workplace
from talkoot.peer.trainer.data import Corpus
from talkoot.peer.trainer.engine import Engine, NoMemory, learning_rate
from talkoot.peer.trainer.layout import Flat, initial_weights
from talkoot.peer.trainer.protocol import TrainerSpec
from talkoot.peer.trainer.windows import sequence_seed


@dataclass(frozen=True, kw_only=True, slots=True)
class SoloResult:
    """What one worker reached."""

    steps: int
    loss_start: float | None
    """Held-out, nats a token; None: nothing is held out."""
    loss_end: float | None
    train_loss: float | None
    """Over the last tenth of the steps."""
    tokens: int
    seconds: float
    """In steps, without start-up and evaluation."""
    step_ms: float
    curve: tuple[tuple[int, float], ...]
    """(step, held-out loss) at tenths of the run."""


def spec_of(
    manifest_path: Path,
    state_dir: Path,
    *,
    device: str = "auto",
    threads: int = 0,
    data_paths: tuple[str, ...] = (),
    base_dir: Path | None = None,
) -> TrainerSpec:
    """A spec for work outside a swarm, under the key of nobody."""
    return TrainerSpec(
        manifest_path=manifest_path,
        state_dir=state_dir,
        peer=bytes(32),
        device=device,
        threads=threads,
        data_paths=data_paths,
        base_dir=base_dir,
    )


def train(manifest: Manifest, spec: TrainerSpec, *, steps: int, windows: int) -> SoloResult:
    """`steps` inner steps from the initial weights, with the settings and the schedule of the swarm.

    Raises ConfigError, NoMemory.
    """
    engine, corpus = _open(manifest, spec)
    engine.load(initial_weights(manifest))
    seed = sequence_seed(manifest.swarm_id, spec.peer, 0)
    batch = manifest.inner.batch_size
    curve: list[tuple[int, float]] = []
    seconds = 0.0
    for step in range(steps + 1):
        if step % max(1, steps // 10) == 0 or step == steps:
            last = engine.read().loss
            loss = _held_out_loss(engine, corpus, _current(engine), windows)
            curve += [] if loss is None else [(step, loss)]
        if step == steps:
            break
        began = time.monotonic()
        engine.step(corpus.training(seed, step * batch, batch), learning_rate(manifest, step, None))
        seconds += time.monotonic() - began
    return SoloResult(
        steps=steps,
        loss_start=curve[0][1] if curve else None,
        loss_end=curve[-1][1] if curve else None,
        train_loss=last,
        tokens=steps * batch * manifest.data.sequence_length,
        seconds=seconds,
        step_ms=1000 * seconds / max(1, steps),
        curve=tuple(curve),
    )


def evaluate_file(manifest: Manifest, spec: TrainerSpec, flat_path: Path, windows: int) -> float | None:
    """Held-out loss of a file of parameters, nats a token; None when nothing is held out.

    Raises ConfigError, NoMemory, and ValueError when the file has another size.
    """
    engine, corpus = _open(manifest, spec)
    return _held_out_loss(engine, corpus, workplace.map_vector(flat_path, engine.layout.numel), windows)


def _open(manifest: Manifest, spec: TrainerSpec) -> tuple[Engine, Corpus]:
    engine = workplace.make_engine(
        manifest, device=spec.device, threads=spec.threads, memory_limit_bytes=spec.memory_limit_bytes
    )
    spec.state_dir.mkdir(parents=True, exist_ok=True)
    corpus = workplace.make_corpus(manifest, spec, engine.vocab_size)
    engine.probe(manifest.data.sequence_length)
    return engine, corpus


def _current(engine: Engine) -> Flat:
    import numpy as np

    return np.concatenate([chunk.copy() for chunk in engine.chunks()])


def _held_out_loss(engine: Engine, corpus: Corpus, flat: Flat, windows: int) -> float | None:
    held_out = corpus.held_out(windows)
    return engine.evaluate(flat, held_out) if len(held_out) else None


def load_any(path: Path) -> tuple[Manifest, Path]:
    """A manifest in TOML or in canonical form, and the folder of its paths. Raises ConfigError."""
    if path.suffix == ".toml":
        return manifest_file.load(path)
    return workplace.load_manifest(path), path.parent


def _arguments(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m talkoot.peer.trainer.solo", description=__doc__)
    parser.add_argument("--manifest", type=Path, required=True)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--windows", type=int, default=0, help="held-out windows; 0: as the manifest says")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--state-dir", type=Path, help="where token files are kept; default: a temporary one")
    parser.add_argument("--data", action="append", default=[], help="own files or globs")
    parser.add_argument("--json", action="store_true")
    return parser.parse_args(arguments)


def main(arguments: list[str]) -> int:
    """Entry point. Returns the exit code."""
    options = _arguments(arguments)
    try:
        manifest, base = load_any(options.manifest)
        with TemporaryDirectory(prefix="talkoot-solo-") as temporary:
            spec = spec_of(
                options.manifest,
                options.state_dir or Path(temporary),
                device=options.device,
                threads=options.threads,
                data_paths=tuple(options.data),
                base_dir=base,
            )
            windows = options.windows or manifest.round.eval_windows
            result = train(manifest, spec, steps=options.steps, windows=windows)
    except ConfigError as error:
        sys.stderr.write(f"talkoot: {error}\n")
        return 2
    except NoMemory as error:
        sys.stderr.write(f"talkoot: {error}\n")
        return 1
    if options.json:
        sys.stdout.write(msgspec.json.encode(asdict(result)).decode() + "\n")
    else:
        sys.stdout.write(
            f"{result.steps} steps, held-out loss {result.loss_start} -> {result.loss_end}, "
            f"{result.step_ms:.1f} ms a step\n"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
