"""In which codec a peer's bytes of a round are: that of the ledger, rotated by a seed that nobody can choose.

The seed follows from the state before the round, which nobody knows earlier, and from the key of the peer
that encodes. Each peer has a rotation of its own, since what similar contributions lose is alike in the same
one and does not average out. A contribution is encoded once for each prior digest, so retries send the same
bytes; and a peer alone encodes its aggregate as it did its contribution, without a second loss.
"""

from blake3 import blake3

from talkoot.averaging.certificate import Contribution
from talkoot.compression import codec as codecs
from talkoot.compression.codec import Codec

_DOMAIN = "talkoot 2026 rotation"


def codec_of(name: str, prior: bytes, key: bytes) -> Codec:
    """The codec `name` as the peer `key` uses it in the round after `prior`. Raises CodecError."""
    digest = blake3(prior + key, derive_key_context=_DOMAIN).digest()
    return codecs.get(name, int.from_bytes(digest[:8], "little"))


def contribution_codec(header: Contribution) -> Codec:
    """The codec of a contribution."""
    return codec_of(header.codec, header.prior, header.key)
