"""Ready-made manifests. A preset is advice about all knobs at once; a founder edits what it wrote."""

from collections.abc import Callable
from difflib import get_close_matches
from typing import Any

from talkoot.averaging.audits import Audits
from talkoot.averaging.robustness import Robustness
from talkoot.dht.errors import ConfigError
from talkoot.peer.manifest import Compression, Data, Inner, Manifest, Model, Outer, Round, Swarm

PUBLIC = Robustness(rule="trimmed_mean", norm_cap="part", arms_at=0.25)
"""For swarms of strangers: where contributions disagree, norms of each part capped at the median, then in
each coordinate the mean without the highest and the lowest quarter; else the plain mean. Chosen by `talkoot
bench attacks`: it costs nothing where nobody lies, and little under each attack (docs/experiments.md,
"Training under attack")."""


def _llama(
    *, hidden: int, intermediate: int, layers: int, heads: int, kv_heads: int, positions: int
) -> Model:
    """A Llama over bytes: vocabulary 256, tied embeddings, no special tokens."""
    config: dict[str, Any] = {
        "model_type": "llama",
        "vocab_size": 256,
        "hidden_size": hidden,
        "intermediate_size": intermediate,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "max_position_embeddings": positions,
        "tie_word_embeddings": True,
    }
    return Model(config=config)


def _tiny(name: str) -> Manifest:
    return Manifest(
        swarm=Swarm(
            name=name, description="A byte model of 0.37M parameters that learns in minutes on a CPU."
        ),
        model=_llama(hidden=96, intermediate=272, layers=3, heads=4, kv_heads=4, positions=256),
        data=Data(sequence_length=128),
        inner=Inner(batch_size=16, learning_rate=3e-3, warmup_steps=50),
        outer=Outer(inner_steps=30, learning_rate=0.7, momentum=0.5),
        round=Round(
            min_interval_s=1.0,
            max_interval_s=300.0,
            announce_s=1.0,
            form_s=5.0,
            exchange_s=20.0,
            certify_s=10.0,
            eval_windows=32,
        ),
    )


def _small(name: str) -> Manifest:
    return Manifest(
        swarm=Swarm(name=name, description="A byte model of 25M parameters for a few desktop computers."),
        model=_llama(hidden=512, intermediate=1376, layers=8, heads=8, kv_heads=8, positions=1024),
        data=Data(sequence_length=512),
        inner=Inner(batch_size=32, learning_rate=1e-3, warmup_steps=200),
        outer=Outer(inner_steps=100, learning_rate=0.7, momentum=0.8),
        round=Round(min_interval_s=5.0, max_interval_s=1800.0, announce_s=5.0, form_s=8.0, exchange_s=120.0),
    )


def _lan(name: str) -> Manifest:
    return Manifest(
        swarm=Swarm(name=name, description="A byte model of 100M parameters for GPUs in one building."),
        model=_llama(hidden=768, intermediate=2048, layers=14, heads=12, kv_heads=12, positions=2048),
        data=Data(sequence_length=1024),
        inner=Inner(batch_size=64, learning_rate=6e-4, warmup_steps=500),
        outer=Outer(inner_steps=100, learning_rate=0.7, momentum=0.9),
        round=Round(min_interval_s=5.0, max_interval_s=1800.0, announce_s=3.0, form_s=5.0, exchange_s=60.0),
    )


def _public(name: str) -> Manifest:
    return Manifest(
        swarm=Swarm(
            name=name,
            description="A byte model of 140M parameters for volunteers on home connections.",
            admission="open",
        ),
        model=_llama(hidden=1024, intermediate=2752, layers=12, heads=16, kv_heads=8, positions=2048),
        data=Data(sequence_length=1024),
        inner=Inner(batch_size=128, learning_rate=4e-4, warmup_steps=1000),
        outer=Outer(inner_steps=500, learning_rate=0.7, momentum=0.9),
        compression=Compression(codec="int8", aggregate_codec="int8", error_feedback=True),
        robustness=PUBLIC,
        audits=Audits(trainers=True),
        round=Round(
            min_interval_s=60.0,
            max_interval_s=7200.0,
            announce_s=30.0,
            form_s=30.0,
            exchange_s=900.0,
            certify_s=120.0,
        ),
    )


def _numpy_test(name: str) -> Manifest:
    return Manifest(
        swarm=Swarm(name=name, description="A bigram table of bytes, for tests with many nodes."),
        model=Model(kind="numpy"),
        data=Data(sequence_length=32),
        inner=Inner(batch_size=16, learning_rate=3e-2, warmup_steps=5),
        outer=Outer(inner_steps=20, learning_rate=0.7, momentum=0.5),
        round=Round(
            min_interval_s=0.5,
            max_interval_s=60.0,
            announce_s=0.3,
            form_s=3.0,
            exchange_s=10.0,
            certify_s=5.0,
            floor_s=1.0,
            eval_windows=16,
        ),
    )


PRESETS = ("tiny", "small", "lan", "public")
"""Those that `talkoot init` offers."""

_MAKERS: dict[str, Callable[[str], Manifest]] = {
    "tiny": _tiny,
    "small": _small,
    "lan": _lan,
    "public": _public,
    "numpy-test": _numpy_test,
}


def make(preset: str, *, name: str) -> Manifest:
    """A draft manifest for a swarm called `name`. Raises ConfigError for an unknown preset."""
    maker = _MAKERS.get(preset)
    if maker is None:
        near = get_close_matches(preset, PRESETS, n=1)
        hint = f"did you mean {near[0]}?" if near else "known: " + ", ".join(PRESETS)
        raise ConfigError(f"preset {preset} is unknown; {hint}")
    return maker(name)
