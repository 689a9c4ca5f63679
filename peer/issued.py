"""The invite keys that a founder made, and which of them it takes back: one small file, replaced whole.

Only public halves are kept: who reads the file can admit nobody.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from talkoot.averaging.ledger import Ledger
from talkoot.averaging.revocations import MAX_REVOKED, NOBODY, Revocation, sign_revocation
from talkoot.averaging.signing import Signer
from talkoot.dht.errors import ConfigError
from talkoot.dht.identity import peer_id_of
from talkoot.peer import invite
from talkoot.peer.admission import Token, UnknownInviteError, terms_of
from talkoot.peer.small_files import read_small, write_small

MAX_ISSUED = 1024
"""Most invites that are remembered; expired ones make room."""

MIN_START = 8
"""So many first characters may stand for an invite."""


class Issued(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """One invite key."""

    token: Token
    made: Annotated[int, Meta(ge=0, le=2**40)]
    """Unix time."""
    revoked: bool = False
    """Whether we take it back; the swarm may not know yet."""


_All = Annotated[tuple[Issued, ...], Meta(max_length=MAX_ISSUED)]


class IssuedInvites:
    """By key. `load` and `write` block, the rest is in memory. `now` is Unix time."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._invites: dict[bytes, Issued] = {}

    @classmethod
    def load(cls, path: Path) -> "IssuedInvites":
        """What the file holds; no file: none. Raises ConfigError where it cannot be read or is damaged."""
        made = cls(path)
        data = read_small(path)
        if data is not None:
            try:
                invites = msgspec.msgpack.decode(data, type=_All)
            except (ValueError, RecursionError) as error:
                raise ConfigError(
                    f"{path} is damaged: move it away to go on without its invites ({error})"
                ) from error
            made._invites = {item.token.key: item for item in invites}
        return made

    def encode(self) -> bytes:
        """The file's content."""
        return msgspec.msgpack.encode(tuple(self._invites.values()))

    def write(self, data: bytes) -> None:
        """Write what `encode` gave, durably; for a thread. Raises ConfigError."""
        write_small(self._path, data)

    def add(self, token: Token, now: float) -> None:
        """Remember one that is made now. Raises ValueError where there are too many that still hold."""
        if len(self._invites) >= MAX_ISSUED:
            expired = [item for item in self._invites.values() if item.token.expires < now]
            if not expired:
                raise ValueError(f"{MAX_ISSUED} invites were made in these days: wait until some expire")
            del self._invites[min(expired, key=lambda item: item.token.expires).token.key]
        self._invites[token.key] = Issued(token, int(now))

    def revoke(
        self, name: str, *, own: bytes, swarm: bytes, ledger: Ledger | None, now: float
    ) -> list[bytes]:
        """Mark what `name` stands for: `all` open ones, the first characters of a key, or an invite's text.

        Returns the keys. An invite that we signed need not be in the file. Raises UnknownInviteError, or
        ValueError where there is no room.
        """
        owners = _owners(ledger)
        if name == "all" and ledger is None:
            raise UnknownInviteError("this peer holds no state that says which are open: revoke one by one")
        if name == "all":
            keys = [k for k, item in self._invites.items() if _state(item, owners, now) == "open"]
            if not keys:
                raise UnknownInviteError("no invite that was made here is open")
        elif name[: len(invite.SCHEME)].lower() == invite.SCHEME:
            keys = [self._adopt(name, own, swarm, now)]
        else:
            keys = [self._named(name)]
        for key in keys:
            self._invites[key] = msgspec.structs.replace(self._invites[key], revoked=True)
        return keys

    def _named(self, name: str) -> bytes:
        found = [key for key in self._invites if key.hex().startswith(name.lower())]
        if len(name) < MIN_START or not found:
            raise UnknownInviteError(
                f"{name[:80]} is no invite, nor the first {MIN_START} or more characters of one in "
                "talkoot invite --list"
            )
        if len(found) > 1:
            raise UnknownInviteError(f"{len(found)} invites begin with {name}: give more characters")
        return found[0]

    def _adopt(self, text: str, own: bytes, swarm: bytes, now: float) -> bytes:
        try:
            given = invite.decode(text)
        except ValueError as error:
            raise UnknownInviteError(str(error)) from error
        if given.swarm != swarm:
            raise UnknownInviteError("that invite is to another swarm")
        if given.key is None or given.key.token.issuer != own:
            raise UnknownInviteError("that invite has no key of this peer's: only who made it can revoke it")
        if given.key.token.key not in self._invites:
            self.add(given.key.token, now)
        return given.key.token.key

    def pending(self, ledger: Ledger, signer: Signer) -> tuple[Revocation, ...]:
        """What the next join hands in: open ones first, since a vote may have to wait for a majority."""
        owners = _owners(ledger)
        waiting = [item.token for item in self._invites.values() if item.revoked]
        waiting = [token for token in waiting if owners.get(token.key) != NOBODY]
        waiting.sort(key=lambda token: (owners.get(token.key) in ledger.voters, token.key))
        return tuple(
            sign_revocation(signer, swarm=ledger.swarm, token=token.key, permission=terms_of(token))
            for token in sorted(waiting[:MAX_REVOKED], key=lambda token: token.key)
        )

    def as_json(self, ledger: Ledger | None, now: float) -> list[dict[str, Any]]:
        """All, oldest first, as the API and `talkoot invite --list` show them."""
        owners = _owners(ledger)
        shown = sorted(self._invites.values(), key=lambda item: (item.made, item.token.key))
        return [
            {
                "token": item.token.key.hex(),
                "made": item.made,
                "expires": item.token.expires,
                "state": _state(item, owners, now),
                "peer_id": peer_id_of(peer)
                if (peer := owners.get(item.token.key, NOBODY)) != NOBODY
                else None,
            }
            for item in shown
        ]


def _owners(ledger: Ledger | None) -> dict[bytes, bytes]:
    return {use.token: use.peer for use in ledger.used} if ledger is not None else {}


def _state(item: Issued, owners: Mapping[bytes, bytes], now: float) -> str:
    owner = owners.get(item.token.key)
    if owner == NOBODY:
        return "revoked"
    if item.revoked:
        return "being revoked"
    if owner is not None:
        return "used"
    return "expired" if item.token.expires < now else "open"
