"""What must be there before this machine can take part in a swarm. Each check raises ConfigError."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import torch

from talkoot.dht.errors import ConfigError
from talkoot.dht.identity import Identity
from talkoot.peer import admission
from talkoot.peer.manifest import Manifest
from talkoot.peer.protocol import PROTOCOL_VERSION, speaks, spoken
from talkoot.peer.rules_of import founder_keys, listed_keys
from talkoot.peer.trainer.documents import expand


def require_protocol(manifest: Manifest) -> None:
    """A swarm speaks the protocol of its manifest."""
    if not speaks(manifest.protocol):
        advice = "update talkoot" if manifest.protocol > PROTOCOL_VERSION else "install an older release"
        raise ConfigError(
            f"swarm {manifest.swarm.name!r} speaks protocol {manifest.protocol}, this talkoot {spoken()}: "
            f"{advice}"
        )


def require_admission(manifest: Manifest, identity: Identity, proof: bytes) -> None:
    """A newcomer of a swarm by invitation needs a proof that holds; its date is for the others to judge. In
    one with a list it must be on it."""
    founders = founder_keys(manifest)
    if manifest.swarm.admission == "open" or identity.key in founders:
        return
    if manifest.swarm.admission == "allowlist":
        if identity.key in listed_keys(manifest):
            return
        raise ConfigError(
            f"swarm {manifest.swarm.name!r} takes only the peers that its manifest lists (swarm.allowlist), "
            f"and this one, {identity.peer_id}, is not among them: --role observer follows it all the same"
        )
    if not proof:
        raise ConfigError(
            f"swarm {manifest.swarm.name!r} takes new peers by invitation only, and this peer has no invite "
            "key: ask a founder for an invite (talkoot invite) and give it with --join"
        )
    try:
        admission.check(proof, swarm=manifest.swarm_id, key=identity.key, founders=founders, now=None)
    except admission.AdmissionError as error:
        raise ConfigError(f"our invitation does not hold ({error}): ask a founder for a new one") from error


def require_data(manifest: Manifest, base: Path, own_paths: Sequence[str]) -> None:
    """The files of the data section, from `base` on, or of --data: there, and not all empty."""
    if manifest.data.source not in ("text", "jsonl", "tokens"):
        return
    if own_paths:
        name = "--data"
        absolute = [str(Path(path).expanduser().absolute()) for path in own_paths]
        files = expand(absolute, Path.cwd(), name=name)
    else:
        name = "data.paths"
        files = expand(manifest.data.paths, base, name=name)
    if not any(_sizes(files)):
        raise ConfigError(f"{name}: there is nothing in {files[0]}" + (" and the others" * (len(files) > 1)))


def require_own_data(manifest: Manifest, base: Path | None, own_paths: Sequence[str]) -> None:
    """A manifest from others (`base` is None) never makes us read files that we did not name ourselves."""
    local = manifest.data.source in ("text", "jsonl", "tokens")
    if local and not own_paths and base is None:
        raise ConfigError("this swarm trains on files of your own choice: name them with --data PATH")
    if own_paths:
        require_data(manifest, Path(), own_paths)


def _sizes(files: Iterable[Path]) -> Iterable[int]:
    for file in files:
        try:
            yield file.stat().st_size
        except OSError as error:
            raise ConfigError(f"cannot read {file}: {error.strerror}") from error


def require_tokenizer(draft: Manifest, base: Path) -> None:
    """The tokenizer that a draft names."""
    name = draft.data.tokenizer
    if name != "bytes" and not (base / name).is_file():
        raise ConfigError(f"data.tokenizer: there is no file {base / name}; give one, or write 'bytes'")


def require_device(name: str) -> None:
    """The device that --device names; the trainer looks again, since a GPU may be gone at the next start."""
    kind, _, index = name.partition(":")
    if kind not in ("auto", "cpu", "cuda", "mps") or (index and not (kind == "cuda" and index.isdecimal())):
        raise ConfigError(f"--device {name}: write auto, cpu, cuda, cuda:N or mps")
    there = {"auto": True, "cpu": True, "cuda": torch.cuda.is_available()}
    if not there.get(kind, torch.backends.mps.is_available()):
        raise ConfigError(f"--device {name}: there is none here; --device auto takes what there is")
    if index and int(index) >= torch.cuda.device_count():
        raise ConfigError(f"--device {name}: this machine has {torch.cuda.device_count()} GPUs")
