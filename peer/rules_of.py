"""From a sealed manifest to the rules that rounds follow."""

from talkoot.averaging.rules import Rules
from talkoot.dht.errors import ConfigError
from talkoot.dht.identity import key_of_peer_id
from talkoot.peer.admission import admit_rule
from talkoot.peer.manifest import Manifest


def founder_keys(manifest: Manifest) -> tuple[bytes, ...]:
    """Keys of the founders, ascending. Raises ConfigError when the manifest lists something else."""
    try:
        return tuple(sorted(key_of_peer_id(name) for name in manifest.swarm.founders))
    except ValueError as error:
        raise ConfigError(f"swarm.founders: {error}") from error


def rules_of(manifest: Manifest) -> Rules:
    """The rules of a sealed manifest. Raises ConfigError."""
    if not manifest.sealed:
        raise ConfigError("the manifest is a draft: its founder must run it first")
    founders = founder_keys(manifest)
    return Rules(
        swarm=manifest.swarm_id,
        numel=manifest.model.numel,
        founders=founders,
        invited_vote=manifest.swarm.admission == "invite",
        admit=admit_rule(manifest.swarm_id, founders),
        inner_steps=manifest.outer.inner_steps,
        outer_learning_rate=manifest.outer.learning_rate,
        outer_momentum=manifest.outer.momentum,
        error_feedback=manifest.compression.error_feedback,
        feedback_decay=manifest.compression.feedback_decay,
        max_absent_rounds=manifest.round.max_absent_rounds,
        exchange=manifest.round.exchange,
    )
