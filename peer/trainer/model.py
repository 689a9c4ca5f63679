"""Any causal language model that `transformers` can build from a configuration in the manifest.

Nothing is ever downloaded and no code comes with a model: keys that name a repository or remote code are
refused, and the library is told to be offline before it is imported.
"""

import os
from typing import Any

import torch
from torch import nn

from talkoot.dht.errors import ConfigError
from talkoot.peer.manifest import Manifest
from talkoot.peer.trainer.layout import Flat, Layout

FORBIDDEN = frozenset(
    {"auto_map", "_name_or_path", "name_or_path", "trust_remote_code", "quantization_config"}
)
"""Configuration keys that lead to a download or to code."""

MAX_PARAMETERS = 2**36
"""More parameters than this are refused before anything is allocated."""


def config_of(manifest: Manifest) -> Any:
    """The `transformers` configuration object. Raises ConfigError naming what is wrong."""
    values = dict(manifest.model.config)
    forbidden = FORBIDDEN.intersection(values)
    if forbidden:
        raise ConfigError(f"model.config.{min(forbidden)} is not allowed: a manifest is data, never code")
    model_type = values.pop("model_type", None)
    if not isinstance(model_type, str):
        raise ConfigError("model.config.model_type must be given, such as 'llama'")
    if manifest.data.source != "huggingface":  # that data set is streamed; models never are
        os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ["TRANSFORMERS_OFFLINE"] = "1"
    from transformers import AutoConfig

    try:
        return AutoConfig.for_model(model_type, **values)
    except Exception as error:  # validators of the library raise types of their own
        raise ConfigError(f"model.config does not build: {_one_line(error)}") from error


def build(manifest: Manifest) -> nn.Module:
    """The model on the CPU in float32, initialised from `inner.seed`; the global random state is kept.

    Raises ConfigError when the configuration does not build, the vocabulary does not fit the tokenizer, or
    the model has trainable state outside its parameters.
    """
    config = config_of(manifest)
    from transformers import AutoModelForCausalLM

    _check_size(manifest, config)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(manifest.inner.seed)
        try:
            model = AutoModelForCausalLM.from_config(config, trust_remote_code=False, dtype=torch.float32)
        except Exception as error:  # each architecture fails in its own way
            raise ConfigError(f"model.config does not build: {_one_line(error)}") from error
    assert isinstance(model, nn.Module)
    require_stateless(model)
    return model


def meta_layout(manifest: Manifest) -> Layout:
    """The layout of the manifest's model, found without memory for its parameters. Raises ConfigError."""
    config = config_of(manifest)
    from transformers import AutoModelForCausalLM

    _check_size(manifest, config)
    try:
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config, trust_remote_code=False, dtype=torch.float32)
    except Exception as error:  # each architecture fails in its own way
        raise ConfigError(f"model.config does not build: {_one_line(error)}") from error
    return layout_of(model)


def require_stateless(model: nn.Module) -> None:
    """Refuse a model with state that training changes beside its parameters (running statistics).

    Constants that are computed from the configuration (rotary frequencies) are not persistent and are fine.
    Raises ConfigError naming the buffer.
    """
    persistent = model.state_dict(keep_vars=True)
    for name, buffer in model.named_buffers():
        if name in persistent and buffer.is_floating_point():
            raise ConfigError(
                f"model.config: buffer {name!r} is trained but is no parameter; such models are refused"
            )


def layout_of(model: nn.Module) -> Layout:
    """Deduplicated named parameters in registration order."""
    return Layout.of((name, tuple(p.shape)) for name, p in model.named_parameters())


def flat_of(model: nn.Module) -> Flat:
    """A copy of all parameters as one float32 vector, in layout order."""
    with torch.no_grad():
        flat = torch.cat([p.detach().reshape(-1).float().cpu() for p in model.parameters()])
    array: Flat = flat.numpy()
    return array


def _check_size(manifest: Manifest, config: Any) -> None:
    text = config.get_text_config()
    vocabulary = getattr(text, "vocab_size", None)
    if not isinstance(vocabulary, int) or vocabulary < 2:
        raise ConfigError("model.config.vocab_size must be given")
    if manifest.data.tokenizer == "bytes" and vocabulary < 256:
        raise ConfigError(f"model.config.vocab_size is {vocabulary}; the tokenizer 'bytes' needs 256")
    length = getattr(text, "max_position_embeddings", None)
    if isinstance(length, int) and 0 < length < manifest.data.sequence_length:
        raise ConfigError(
            f"model.config.max_position_embeddings is {length}; "
            f"data.sequence_length {manifest.data.sequence_length} does not fit"
        )
    hidden = getattr(text, "hidden_size", None)
    layers = getattr(text, "num_hidden_layers", None)
    if isinstance(hidden, int) and isinstance(layers, int):
        least = vocabulary * hidden + 4 * layers * hidden * hidden
        if least > MAX_PARAMETERS:
            raise ConfigError(f"model.config: about {least} parameters or more; at most {MAX_PARAMETERS}")


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return (text or type(error).__name__)[:300]
