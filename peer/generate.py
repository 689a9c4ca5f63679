"""Text from the current model, token by token as it is made."""

import codecs
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from talkoot.dht.errors import ConfigError
from talkoot.peer import export
from talkoot.peer.manifest import Manifest
from talkoot.peer.trainer import tokenizer
from talkoot.peer.trainer.layout import Flat

UNFINISHED = "\N{REPLACEMENT CHARACTER}".encode()
"""What a tokenizer gives for a part of a character."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Sampling:
    """How the next token is chosen."""

    max_tokens: int = 256
    """Tokens made at most."""
    temperature: float = 0.8
    """0: always the likeliest."""
    top_k: int = 50
    """Among so many of the likeliest; 0: among all."""
    seed: int = 0

    def __post_init__(self) -> None:
        """Raises ConfigError naming the field and its bound."""
        if not 1 <= self.max_tokens <= 2**20:
            raise ConfigError("max_tokens must be 1 to 1048576")
        if not 0 <= self.temperature <= 100:
            raise ConfigError("temperature must be 0 to 100")
        if self.top_k < 0:
            raise ConfigError("top_k must be 0 or more")


def generate(
    manifest: Manifest,
    theta: Flat,
    prompt: str,
    sampling: Sampling | None = None,
    *,
    base_dir: Path | None = None,
) -> Iterator[str]:
    """Pieces of text that follow `prompt`, until a document ends or `max_tokens` are made.

    The same seed gives the same text on the same machine. Raises ConfigError before the first piece.
    """
    if manifest.model.kind != "transformers":
        raise ConfigError("model.kind 'numpy' is for tests; it does not generate text")
    sampling = sampling or Sampling()
    words = tokenizer.load(manifest.data, base_dir or Path())
    model = export.load(manifest, theta)
    start = [int(i) for i in words.encode([prompt.encode("utf-8", "surrogatepass")])[0]] or [words.separator]
    return _stream(model, words, start, sampling, manifest.data.sequence_length)


def _stream(
    model: torch.nn.Module, words: tokenizer.Tokenizer, start: list[int], sampling: Sampling, context: int
) -> Iterator[str]:
    """Bytes become text as soon as they are whole characters."""
    random = torch.Generator().manual_seed(sampling.seed)
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    ids = list(start)
    shown = words.decode(ids)
    for _ in range(sampling.max_tokens):
        # as long as the windows that it was trained on: beyond them positions are new to it
        logits_V = _next_logits(model, ids[-context:])
        chosen = _sample(logits_V[: words.vocab_size], sampling, random)
        if chosen == words.separator:
            break
        ids.append(chosen)
        text = words.decode(ids)
        if text.endswith(UNFINISHED) and not isinstance(words, tokenizer.ByteTokenizer):
            continue  # the next token completes the character
        piece, shown = text[len(shown) :], text
        if decoded := decoder.decode(piece):
            yield decoded
    if rest := decoder.decode(b"", final=True):
        yield rest


@torch.no_grad()
def _next_logits(model: torch.nn.Module, ids: list[int]) -> Tensor:
    logits: Tensor = model(input_ids=torch.tensor([ids]), use_cache=False).logits
    return logits[0, -1].float()


def _sample(logits_V: Tensor, sampling: Sampling, random: torch.Generator) -> int:
    if sampling.temperature == 0:
        return int(logits_V.argmax())
    logits_V = logits_V / sampling.temperature
    if 0 < sampling.top_k < len(logits_V):
        lowest = torch.topk(logits_V, sampling.top_k).values[-1]
        logits_V = logits_V.masked_fill(logits_V < lowest, float("-inf"))
    return int(torch.multinomial(torch.softmax(logits_V, 0), 1, generator=random))
