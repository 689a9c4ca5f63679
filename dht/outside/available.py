"""Whether py-libp2p is there; imports nothing of it."""

import importlib.util

from talkoot.dht.errors import ConfigError


def check() -> None:
    """Raise ConfigError, with what to do, where py-libp2p is missing."""
    if importlib.util.find_spec("libp2p") is None:
        raise ConfigError(
            "py-libp2p is missing: pip install 'talkoot[relay]' "
            "(it needs a C compiler and the headers of libgmp)"
        )
