"""From a sealed manifest to the rules that rounds follow."""

from talkoot.averaging.ladder import first_rung, rungs_of
from talkoot.averaging.robustness import sparse_problem
from talkoot.averaging.rules import Adaptive, Rules, Rung
from talkoot.dht.errors import ConfigError
from talkoot.dht.identity import key_of_peer_id
from talkoot.peer.admission import admit_rule, issued_rule
from talkoot.peer.manifest import Manifest


def founder_keys(manifest: Manifest) -> tuple[bytes, ...]:
    """Keys of the founders, ascending. Raises ConfigError when the manifest lists something else."""
    return _keys(manifest.swarm.founders, "founders")


def listed_keys(manifest: Manifest) -> tuple[bytes, ...]:
    """Keys of the peers in the allowlist, ascending. Raises ConfigError when it lists something else."""
    return _keys(manifest.swarm.allowlist, "allowlist")


def _keys(names: tuple[str, ...], field: str) -> tuple[bytes, ...]:
    try:
        return tuple(sorted({key_of_peer_id(name) for name in names}))
    except ValueError as error:
        raise ConfigError(f"swarm.{field}: {error}") from error


def rules_of(manifest: Manifest) -> Rules:
    """The rules of a sealed manifest. Raises ConfigError."""
    if not manifest.sealed:
        raise ConfigError("the manifest is a draft: its founder must run it first")
    founders = founder_keys(manifest)
    return Rules(
        swarm=manifest.swarm_id,
        numel=manifest.model.numel,
        founders=founders,
        invited_vote=manifest.swarm.admission != "open",
        admit=admit_rule(manifest.swarm_id, founders),
        inner_steps=manifest.outer.inner_steps,
        outer_learning_rate=manifest.outer.learning_rate,
        outer_momentum=manifest.outer.momentum,
        error_feedback=manifest.compression.error_feedback,
        feedback_decay=manifest.compression.feedback_decay,
        adaptive=_adaptive(manifest),
        max_absent_rounds=manifest.round.max_absent_rounds,
        exchange=manifest.round.exchange,
        robustness=manifest.robustness,
        listed=listed_keys(manifest),
        issued=issued_rule(manifest.swarm_id, founders),
        audits=manifest.audits if manifest.audits.trainers else None,
    )


def _adaptive(manifest: Manifest) -> Adaptive | None:
    """How codecs are chosen; None where the manifest names them."""
    compression = manifest.compression
    if compression.codec != "auto":
        return None
    rungs = rungs_of(manifest.round.exchange, compression.aggregate_codec)
    return Adaptive(
        rungs=tuple(rung for rung in rungs if _suits(rung, manifest)),
        share=compression.exchange_share,
        warm_rounds=compression.warm_rounds,
        exchange_ms=int(1000 * manifest.round.exchange_s),
        certify_ms=int(1000 * manifest.round.certify_s),
    )


def _suits(rung: Rung, manifest: Manifest) -> bool:
    """Whether the swarm's robust rule makes sense of a rung's contributions."""
    exchange = manifest.round.exchange
    return sparse_problem(manifest.robustness, exchange=exchange, codec=rung[0]) is None


def first_codecs(manifest: Manifest) -> Rung:
    """The codecs of the first round of a sealed manifest. Raises ConfigError."""
    codec, aggregate_codec = manifest.compression.codec, manifest.compression.aggregate_codec
    if codec == "auto":
        return first_rung(rules_of(manifest))
    return codec, "int8" if aggregate_codec == "auto" else aggregate_codec
