"""The bundle of `talkoot diag`: what helps to find out what is wrong with a node, without its secrets.

Made of what the local API says, of the manifest, of names and sizes of files, and of the last log lines.
Files with secrets are not opened but to know what must not be in the bundle.
"""

import getpass
import io
import os
import platform
import socket
import time
import zipfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import msgspec

from talkoot.dht.errors import ConfigError
from talkoot.dht.identity import Identity
from talkoot.peer.kept_log import last_lines
from talkoot.peer.protocol import PROTOCOL_VERSION
from talkoot.peer.redact import Redactor
from talkoot.peer.statedir import StateDir
from talkoot.peer.verify_state import DamagedError, manifest_in

MAX_MEMBER_BYTES = 1 << 20
"""Longest file in a bundle; logs lose their beginning, others their end."""

MAX_ENTRIES = 500
"""Files of the state directory that are listed."""

PACKAGES = (
    "talkoot", "torch", "transformers", "tokenizers", "safetensors", "hivemind", "uvloop", "msgspec",
    "blake3", "cryptography", "aiohttp", "prometheus-client", "typer", "rich", "structlog", "numpy",
)  # fmt: skip

CONTENTS = {
    "versions.json": "talkoot, Python, packages, system, processor cores, memory, free disk",
    "config.json": "the swarm's manifest",
    "status.json": "what talkoot status --json says",
    "peers.json": "what talkoot peers --json says",
    "rounds.json": "what talkoot rounds --json says, of the last 200",
    "metrics.txt": "what /metrics says",
    "files.json": "names, sizes and ages of the files in the state directory",
    "log.txt": "the last log lines",
}
"""Everything that may be in a bundle."""

_REMOVED = """\
Taken out: keys, tokens, invites and proofs of invitation; IP addresses and multiaddrs; names of users, of
this machine and of peers' owners; paths. Peers are called peer-XXXXXXXX, this one peer-self: the same peer
is called the same throughout this bundle, and differently in the next. Of digests and the swarm's id the
first 12 characters stay; other long hexadecimal numbers have aliases.

Still in it: the swarm's name and settings, versions, times, losses, counts and sizes, and what log lines
say in words. Read it before you give it to anybody.
"""


@dataclass(frozen=True, kw_only=True)
class Answers:
    """What the daemon said."""

    status: dict[str, Any] | None = None
    peers: list[dict[str, Any]] | None = None
    rounds: list[dict[str, Any]] | None = None
    metrics: str | None = None
    problems: list[str] = field(default_factory=list)
    """Why something is missing."""


def bundle(paths: StateDir, answers: Answers, *, now: float) -> bytes:
    """A zip file; `now` is Unix time. Raises ConfigError where there is no state directory."""
    if not (paths.key_file.exists() or paths.swarm_file.exists()):
        raise ConfigError(f"{paths.path} is no state directory of a peer: give one with --state-dir")
    problems = list(answers.problems)
    sources: dict[str, object] = {"versions.json": _versions(paths), "files.json": _files(paths, now)}
    sources["config.json"] = _config(paths, problems)
    sources["status.json"], sources["peers.json"] = answers.status, answers.peers
    sources["rounds.json"], sources["metrics.txt"] = answers.rounds, answers.metrics
    sources["log.txt"] = "\n".join(last_lines(paths.logs, MAX_MEMBER_BYTES // 2)) or None
    redactor = _redactor(paths, sources)
    members = {
        name: _bounded(name, _member(redactor, sources[name]))
        for name in CONTENTS
        if sources.get(name) is not None
    }
    missing = [f"{name}: not here" for name in CONTENTS if name not in members]
    notes = [redactor.text(" ".join(problem.split())) for problem in problems]
    return _zipped({"README.txt": _read_me(members, missing + notes, now)} | members, now)


def _redactor(paths: StateDir, sources: Mapping[str, object]) -> Redactor:
    redactor = Redactor(hidden=_known(paths))
    with suppress(ConfigError, OSError):
        if paths.key_file.exists():
            redactor.call(Identity.load_or_create(paths.key_file).peer_id, "peer-self")
    redactor.learn_peers(_as_text(source) for source in sources.values())
    for file in (paths.peers_file, paths.names, paths.bans):
        with suppress(OSError):
            redactor.learn_peers([file.read_bytes()[:MAX_MEMBER_BYTES].decode("utf-8", "replace")])
    redactor.keep(_public_hex(sources))
    return redactor


def _known(paths: StateDir) -> dict[str, str]:
    """Texts of this machine that must not be in the bundle, and what stands there instead."""
    known = {str(paths.path): "[state]", str(Path.home()): "~"}
    with suppress(OSError):
        known[socket.gethostname()] = "[host]"
    with suppress(OSError, KeyError):
        if (user := getpass.getuser()) != "root":  # which is a word, and no secret
            known[user] = "[user]"
    for file in (paths.token_file, paths.invite_file):
        with suppress(OSError):
            text = file.read_bytes()[:65_536].decode("utf-8", "replace").strip()
            known[text] = "[hidden]"
    return known


def _public_hex(sources: Mapping[str, object]) -> list[str]:
    """Digests and the swarm's id."""
    status, rounds = sources.get("status.json"), sources.get("rounds.json")
    found = [str(status.get(name)) for name in ("digest", "swarm_id")] if isinstance(status, dict) else []
    records = rounds if isinstance(rounds, list) else []
    return found + [str(record.get("digest")) for record in records if isinstance(record, dict)]


# -- sources -----------------------------------------------------------------------------------------


def _versions(paths: StateDir) -> dict[str, object]:
    import psutil

    packages: dict[str, str] = {}
    for name in PACKAGES:
        with suppress(PackageNotFoundError):
            packages[name] = version(name)
    free = None
    with suppress(OSError):
        free = paths.free_bytes()
    return {
        "protocol": PROTOCOL_VERSION,
        "packages": packages,
        "python": platform.python_version(),
        "system": platform.system(),
        "release": platform.release(),
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "memory_bytes": psutil.virtual_memory().total,
        "disk_free_bytes": free,
    }


def _config(paths: StateDir, problems: list[str]) -> dict[str, object] | None:
    try:
        return asdict(manifest_in(paths))
    except DamagedError as error:
        problems.append(str(error))
        return None


def _files(paths: StateDir, now: float) -> list[dict[str, object]]:
    """Two levels; names of checkpoints and records are ours, so they say nothing of anybody."""
    listed: list[dict[str, object]] = []
    for pattern in ("*", "*/*"):
        for path in sorted(paths.path.glob(pattern)):
            with suppress(OSError):
                stat = path.lstat()
                entry = {
                    "name": str(path.relative_to(paths.path)),
                    "bytes": stat.st_size,
                    "age_s": round(now - stat.st_mtime),
                }
                listed.append(entry | ({"folder": True} if path.is_dir() else {}))
            if len(listed) >= MAX_ENTRIES:
                return listed
    return listed


# -- the file ----------------------------------------------------------------------------------------


def _as_text(source: object) -> str:
    return source if isinstance(source, str) else msgspec.json.encode(source, enc_hook=str).decode()


def _member(redactor: Redactor, source: object) -> bytes:
    if isinstance(source, str):
        return redactor.text(source).encode("utf-8", "replace")
    values = redactor.values(msgspec.to_builtins(source, enc_hook=str))
    return msgspec.json.format(msgspec.json.encode(values), indent=1)


def _bounded(name: str, data: bytes) -> bytes:
    if len(data) <= MAX_MEMBER_BYTES:
        return data
    if name == "log.txt":
        return data[-MAX_MEMBER_BYTES:]
    return data[: MAX_MEMBER_BYTES - 20] + b"\n[cut off here]\n"


def _read_me(members: Mapping[str, bytes], notes: list[str], now: float) -> bytes:
    when = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(now))
    lines = [f"Diagnostics of a talkoot node, {when}", ""]
    lines += [f"{name:14} {len(members[name]):8} bytes  {CONTENTS[name]}" for name in members]
    lines += ["", *notes, "", _REMOVED]
    return "\n".join(lines).encode()


def _zipped(members: Mapping[str, bytes], now: float) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as file:
        for name, data in members.items():
            info = zipfile.ZipInfo(f"talkoot-diag/{name}", date_time=time.gmtime(now)[:6])
            info.external_attr = 0o600 << 16
            info.compress_type = zipfile.ZIP_DEFLATED
            file.writestr(info, data)
    return buffer.getvalue()
