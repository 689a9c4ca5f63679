"""Checks the records of the last rounds offline; see `talkoot.peer.verify`."""

from pathlib import Path

from talkoot.averaging.certificate import CertificateError, decode_certificate
from talkoot.peer.certlog import LogCorruptError
from talkoot.peer.log_reading import LogReader
from talkoot.peer.roundlog import RECORD_NAME, Kept, check_record
from talkoot.peer.verify_chain import Check


def check_records(folder: Path, log: Path) -> list[Check]:
    """Whether each is whole, and of a round of the chain in `log`; nothing where there are none."""
    try:
        paths = sorted(path for path in folder.iterdir() if RECORD_NAME.fullmatch(path.name))
    except OSError:
        return []
    if not paths:
        return []
    whole, damaged = list[Kept](), list[str]()
    for path in paths:
        try:
            kept = check_record(path)
        except FileNotFoundError:  # a daemon has removed it
            continue
        except OSError as error:
            damaged.append(f"{path.name} ({error.strerror})")
            continue
        if kept is None:
            damaged.append(path.name)
        else:
            whole.append(kept)
    if damaged:
        words = (
            f"{len(damaged)} of {len(paths)} are damaged, and a start removes them: {', '.join(damaged[:3])}"
        )
        return [Check("records", "failed", words)]
    return [_on_chain(whole, log)]


def _on_chain(records: list[Kept], log: Path) -> Check:
    wanted = {kept.round + 1 for kept in records}
    try:
        chain = {
            number: decode_certificate(data).value.hash for number, data in LogReader(log) if number in wanted
        }
    except (OSError, LogCorruptError, CertificateError):
        return Check("records", "not checked", "the log does not say of which rounds they are")
    foreign = [
        kept.round for kept in records if chain.get(kept.round + 1, kept.value_hash) != kept.value_hash
    ]
    if foreign:
        words = f"of another branch, and a start removes them: those of rounds {foreign[:3]}"
        return Check("records", "failed", words)
    first, last = min(wanted) - 1, max(wanted) - 1
    return Check("records", "ok", f"{len(records)} of rounds {first} to {last} fit their checksums")
