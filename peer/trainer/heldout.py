"""Which documents nobody trains on: chosen by the hash of their content, the same wherever a copy lies."""

from blake3 import blake3


def document_hash(document: bytes) -> bytes:
    """32 bytes that stand for a document's content, in a domain of their own."""
    return blake3(document, derive_key_context="talkoot 2026 document").digest()


def is_held_out(digest: bytes, percent: float) -> bool:
    """True for about `percent` of all document hashes, the lowest ones."""
    return int.from_bytes(digest[:8], "big") < int(percent / 100 * 2**64)


def corpus_hash(digests: list[bytes]) -> bytes:
    """32 bytes over a set of documents, whatever their order."""
    return blake3(b"".join(sorted(digests)), derive_key_context="talkoot 2026 corpus").digest()
