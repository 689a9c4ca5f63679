"""Whether the states that peers have on disk are what their certificates say. Needs torch."""

from collections.abc import Mapping
from pathlib import Path

from talkoot.averaging.certificate import CertificateError, decode_certificate
from talkoot.peer.head import StoreCorruptError, StoreMissingError
from talkoot.peer.statedir import StateDir
from talkoot.peer.store import OuterStore

THETA = "theta.f32"


def states_that_differ(folders: Mapping[str, Path]) -> list[str]:
    """Peers, none of which runs, whose state on disk does not have the digest that its certificate names, or
    another one than that of a peer before it after the same final round; each with the reason."""
    wrong: list[str] = []
    final: dict[int, bytes] = {}
    for name, folder in folders.items():
        try:
            number, digest, is_final = _state(StateDir(folder).outer)
        except (StoreCorruptError, StoreMissingError, CertificateError, OSError) as error:
            wrong.append(f"{name}: {error}")
            continue
        if is_final and final.setdefault(number, digest) != digest:
            wrong.append(f"{name}: another digest than other peers after {number} rounds")
    return wrong


def _state(outer: Path) -> tuple[int, bytes, bool]:
    """Round, digest and whether it is final, all recomputed or checked."""
    sizes = {path.stat().st_size for path in outer.glob(f"*/{THETA}")}
    numel = min(sizes, default=0) // 4
    if numel == 0:
        raise StoreMissingError(f"no outer state in {outer}")
    head = OuterStore.open(outer, numel, verify=True).head
    certificate = decode_certificate(head.certificate)
    if certificate.value.digest != head.digest:
        raise StoreCorruptError(f"the certificate in {outer} is that of another state")
    return head.round, head.digest, certificate.kind == "final"
