"""Names and shapes of a model's parameters: known to who builds the model, wanted by who writes a checkpoint.

The daemon does not import `transformers`; a process of its own builds the model without memory for its
parameters (torch's meta device), once. The answer is kept in the state directory. It is believed if it has
the hash that the manifest names.
"""

import asyncio
import logging
import os
import sys
from math import prod
from pathlib import Path

import msgspec

from talkoot.dht.child import child
from talkoot.dht.errors import ConfigError
from talkoot.peer.manifest import Manifest, from_canonical
from talkoot.peer.small_files import read_small, write_small

log = logging.getLogger("talkoot.state")

Names = tuple[tuple[str, tuple[int, ...]], ...]
"""(name, shape) of each parameter, in the order of the flat vector."""

FLAT: Names = ()
"""Nothing is known: one flat vector."""

FILE = "tensors.json"
"""Where they are kept in the state directory."""

MAX_ANSWER_BYTES = 8 << 20
TIMEOUT_S = 300.0
NICENESS = 10


def check_names(names: Names, manifest: Manifest) -> str | None:
    """Why these are not the parameters of the manifest's model, or None."""
    from talkoot.peer.trainer.layout import Layout

    if sum(prod(shape) for _, shape in names) != manifest.model.numel:
        return f"its tensors do not hold the {manifest.model.numel} parameters of the swarm's model"
    if Layout.of(names).hash != manifest.model.layout:
        return "its tensors are not those of the swarm's model"
    return None


async def tensor_names(manifest: Manifest, folder: Path) -> Names:
    """The parameters of a sealed manifest's model; `FLAT` where they cannot be known here.

    Looked up in `folder` first, and kept there.
    """
    known = await asyncio.to_thread(_kept, folder / FILE)
    if known and check_names(known, manifest) is None:
        return known
    try:
        names = await _built(manifest, folder)
    except (ConfigError, OSError) as error:
        log.warning("checkpoints hold one flat vector, as names cannot be had: %s", error)
        return FLAT
    if names and check_names(names, manifest) is None:
        await asyncio.to_thread(_keep, folder / FILE, names)
        return names
    return FLAT


def _kept(path: Path) -> Names:
    try:
        return _decode(read_small(path) or b"[]")
    except (ConfigError, ValueError):
        return FLAT


def _keep(path: Path, names: Names) -> None:
    try:
        write_small(path, msgspec.json.encode(names))
    except ConfigError as error:
        log.info("%s", error)  # it is asked for again


def _decode(data: bytes) -> Names:
    """Raises ValueError."""
    names: Names = msgspec.json.decode(data, type=Names)
    if any(size < 0 for _, shape in names for size in shape):
        raise ValueError("a negative size")
    return names


async def _built(manifest: Manifest, folder: Path) -> Names:
    """Raises ConfigError, OSError."""
    if manifest.model.kind == "numpy":
        from talkoot.peer.trainer.numpy_model import Shape

        return tuple((slot.name, slot.shape) for slot in Shape.of(manifest).layout)
    environment = os.environ | {"TORCHINDUCTOR_CACHE_DIR": str(folder / "trainer" / "compiled")}
    starting = child(
        sys.executable,
        "-m",
        "talkoot.peer.tensor_names",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        limit=MAX_ANSWER_BYTES,
        env=environment,
    )
    try:
        async with starting as process, asyncio.timeout(TIMEOUT_S):
            out, errors = await process.communicate(manifest.canonical())
    except TimeoutError as error:
        raise ConfigError(f"the model was not built within {TIMEOUT_S:.0f} s") from error
    if process.returncode != 0:
        lines = errors.decode(errors="replace").strip().splitlines()
        raise ConfigError(lines[-1] if lines else "no reason given")
    try:
        return _decode(out)
    except ValueError as error:
        raise ConfigError("the process that built the model gave no list") from error


def _main() -> None:
    os.nice(NICENESS)
    manifest = from_canonical(sys.stdin.buffer.read())
    from talkoot.peer.trainer.model import meta_layout

    names = tuple((slot.name, slot.shape) for slot in meta_layout(manifest))
    sys.stdout.buffer.write(msgspec.json.encode(names))


if __name__ == "__main__":
    try:
        _main()
    except (ConfigError, OSError) as failure:
        sys.stderr.write(" ".join(str(failure).split()) + "\n")
        sys.exit(1)
