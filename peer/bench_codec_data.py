"""The vectors on which codecs are measured, the same in every run."""

from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open

from talkoot.dht.errors import ConfigError

DISTRIBUTIONS = ("gaussian", "laplace", "student_t4", "recorded")

SCALE = 0.01
"""Of the random ones; about what a pseudo-gradient has."""


def vector(distribution: str, numel: int, recorded: Path | None) -> torch.Tensor:
    """`numel` float32 values of a distribution.

    `recorded` is a file of one's own, or None for a pseudo-gradient that is made now; either is repeated, or
    cut, to `numel`. Raises ConfigError when the file does not serve.
    """
    if distribution == "recorded":
        if recorded is None:
            from talkoot.peer.bench_gradient import record  # torch's optimiser and transformers

            return _repeated(torch.from_numpy(record()), numel)
        return _repeated(load(recorded), numel)
    random = np.random.Generator(np.random.Philox(DISTRIBUTIONS.index(distribution)))
    match distribution:
        case "gaussian":
            values = random.standard_normal(numel)
        case "laplace":
            values = random.laplace(size=numel)
        case _:
            values = random.standard_t(4, size=numel)
    return torch.from_numpy((SCALE * values).astype(np.float32))


def load(path: Path) -> torch.Tensor:
    """All floating point tensors of a safetensors file, one behind the other, as flat float32.

    Raises ConfigError when it cannot be read, has none, has values that are not finite, or only zeros.
    """
    try:
        with path.open("rb"):
            pass  # a missing file gets the system's words
        with safe_open(path, framework="pt") as file:
            tensors = [file.get_tensor(name) for name in sorted(file.keys())]
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror or error}") from error
    except SafetensorError as error:
        raise ConfigError(f"{path} is no safetensors file: {error}") from error
    flat = [tensor.float().reshape(-1) for tensor in tensors if tensor.is_floating_point()]
    values_P = torch.cat(flat) if flat else torch.zeros(0)
    if not bool(values_P.any()):
        raise ConfigError(f"{path} has no floating point values other than zero")
    if not bool(values_P.isfinite().all()):
        raise ConfigError(f"{path} has values that are not finite")
    return values_P


def _repeated(values_P: torch.Tensor, numel: int) -> torch.Tensor:
    return values_P.repeat(-(-numel // values_P.numel()))[:numel].clone()
