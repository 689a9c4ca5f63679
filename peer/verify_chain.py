"""Whether a certificate is signed by those who may sign it, as far as that can be known without a network."""

from pathlib import Path
from typing import Literal

import msgspec

from talkoot.averaging.certificate import (
    Certificate,
    CertificateError,
    Phase,
    check_chain,
    check_cut,
    check_genesis,
    decode_certificate,
    vote_bytes,
)
from talkoot.averaging.quorum import quorum
from talkoot.dht.errors import ConfigError
from talkoot.dht.identity import verify
from talkoot.peer.certlog import LogCorruptError
from talkoot.peer.holdings import number_of
from talkoot.peer.invite import Anchor
from talkoot.peer.log_reading import LogReader
from talkoot.peer.manifest import Manifest
from talkoot.peer.rules_of import founder_keys
from talkoot.peer.sync import check_anchor

Outcome = Literal["ok", "failed", "not checked"]


class Check(msgspec.Struct, frozen=True):
    """One thing that was looked at."""

    name: str
    result: Outcome
    words: str


def check_signatures(certificate: Certificate, before: Certificate | None, manifest: Manifest) -> Check:
    """Whether the voters of its round signed it: those whom the certificate `before` names, at first the
    founders. Without either, whether it is signed by the keys that it shows."""
    try:
        founders = founder_keys(manifest)
        return Check("signatures", *_signatures(certificate, before, founders))
    except (CertificateError, ConfigError) as error:
        return Check("signatures", "failed", f"certificate of round {certificate.value.round}: {error}")


def _signatures(
    certificate: Certificate, before: Certificate | None, founders: tuple[bytes, ...]
) -> tuple[Outcome, str]:
    """Raises CertificateError."""
    value = certificate.value
    if certificate.kind == "genesis":
        check_genesis(certificate, founders, verify)
        return "ok", "the first state of the swarm, signed by a founder"
    names = {vote.voter for vote in certificate.votes}
    signed = f"{certificate.kind} certificate of round {value.round}, signed by {len(names)}"
    if before is None:
        check_own_votes(certificate)
        return "not checked", f"{signed} keys; the certificate before, which names the voters, is missing"
    if value.round == 0:
        check_genesis(before, founders, verify)
    else:
        check_own_votes(before)
    check_chain(before, [certificate], verify)
    voters = before.value.voters
    known = sum(1 for key in names if key in founders)
    words = f"{signed} of {len(voters)} voters, {known} of them founders of the swarm"
    if certificate.kind == "weak":
        words += "; a weak round may be rolled back"
    elif known >= quorum(len(voters)):
        words += ", which are a quorum"
    return "ok", words


def check_own_votes(certificate: Certificate) -> None:
    """Raise CertificateError unless every vote that it shows is signed by the key that it names."""
    check_cut(certificate.value, verify)
    if not certificate.votes or not (
        _signed(certificate, "commit", certificate.weak) or _prepared(certificate)
    ):
        raise CertificateError("signature", "a vote is not signed by its voter")


def _prepared(certificate: Certificate) -> bool:
    """See `talkoot.averaging.certificate.weakly`."""
    return certificate.weak and _signed(certificate, "prepare", False)


def _signed(certificate: Certificate, phase: Phase, weak: bool) -> bool:
    value = certificate.value
    message = vote_bytes(value, value.hash, certificate.attempt, phase, weak)
    return all(verify(vote.voter, message, vote.signature) for vote in certificate.votes)


def check_log(log: Path, target: Certificate, manifest: Manifest, anchor: Anchor | None) -> Check:
    """Whether the certificates in a log hand the vote on, one to the next, up to `target`; and from where."""
    try:
        return Check("chain", *_follow(log, target, manifest, anchor))
    except FileNotFoundError:
        return Check("chain", "not checked", f"there is no {log}: who voted before is not known")
    except (CertificateError, ConfigError, LogCorruptError, OSError) as error:
        return Check("chain", "failed", str(error))


def _follow(log: Path, target: Certificate, manifest: Manifest, anchor: Anchor | None) -> tuple[Outcome, str]:
    """Raises CertificateError, ConfigError, LogCorruptError, OSError."""
    reader = LogReader(log)
    links = (decode_certificate(content) for _, content in reader)
    start = next(links, None)
    if start is None:
        return "not checked", f"{log.name} is empty: who voted before is not known"
    outcome, origin = origin_of(start, manifest, anchor)
    last, number = start, number_of(target)
    for link in links:
        if number_of(link) > number:
            break
        if number_of(link) != number_of(last) + 1:
            outcome, origin = "not checked", f"from round {link.value.round} on; there is a gap before it"
        else:
            check_chain(last, [link], verify)
        last = link
    if number_of(last) == number - 1:  # died between store and log
        check_chain(last, [target], verify)
        last = target
    if number_of(last) != number:
        return "not checked", f"{log.name} has nothing of round {target.value.round}"
    if last.value.hash != target.value.hash:
        raise CertificateError("broken_chain", f"{log.name} has another certificate for this round")
    return outcome, f"every round's voters signed it and named the next, {origin}"


def origin_of(start: Certificate, manifest: Manifest, anchor: Anchor | None) -> tuple[Outcome, str]:
    """What vouches for the first certificate of a log. Raises CertificateError, ConfigError."""
    if start.kind == "genesis":
        check_genesis(start, founder_keys(manifest), verify)
        return "ok", "from the founders in the manifest on"
    if anchor is not None and number_of(start) == anchor.round:
        check_anchor(start, anchor)
        return "ok", f"from round {start.value.round} on, for which the invite vouches"
    return "not checked", f"from round {start.value.round} on, for which nothing here vouches"
