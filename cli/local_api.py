"""Asks the daemon of a state directory; its failures become those of a command."""

from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from pathlib import Path
from typing import Any

from talkoot.cli.errors import CommandError, NoDaemonError
from talkoot.dht.errors import ConfigError
from talkoot.peer.client import TIMEOUT_S, ApiClient, ApiError, NoDaemon

Json = dict[str, Any]


class LocalApi:
    """The API of the daemon that holds a state directory; finds it anew with every request."""

    def __init__(self, state_dir: Path, *, timeout_s: float = TIMEOUT_S) -> None:
        self._state_dir = state_dir
        self._timeout_s = timeout_s

    def status(self) -> Json:
        """What the daemon is doing. Raises NoDaemonError, CommandError."""
        with _as_command_errors():
            return _object(self._client().get("/api/v1/status", timeout_s=self._timeout_s))

    def rounds(self, last: int | None = None) -> list[Json]:
        """The rounds that the daemon remembers, newest last; `last`: at most so many of them.

        Raises NoDaemonError, CommandError.
        """
        path = "/api/v1/rounds" if last is None else f"/api/v1/rounds?last={last}"
        with _as_command_errors():
            answer = _object(self._client().get(path, timeout_s=self._timeout_s)).get("rounds")
        if not isinstance(answer, list):
            raise CommandError("the daemon's answer is none of rounds")
        return [entry for entry in answer if isinstance(entry, dict)]

    def metrics(self) -> str:
        """The metrics as text. Raises NoDaemonError, CommandError."""
        with _as_command_errors():
            return self._client().text("/metrics", timeout_s=self._timeout_s)

    def invite(self) -> str:
        """A new invite. Raises NoDaemonError, CommandError."""
        with _as_command_errors():
            answer = _object(self._client().post("/api/v1/invite", timeout_s=self._timeout_s)).get("invite")
        if not isinstance(answer, str):
            raise CommandError("the daemon's answer has no invite")
        return answer

    def invites(self) -> list[Json]:
        """The invites that the daemon made. Raises NoDaemonError, CommandError."""
        with _as_command_errors():
            return _objects(self._client().get("/api/v1/invites", timeout_s=self._timeout_s), "invites")

    def revoke(self, name: str) -> list[Json]:
        """Take invites back; their entries. Raises NoDaemonError, CommandError, ConfigError."""
        with _as_command_errors():
            try:
                answer = self._client().post("/api/v1/revoke", {"invite": name}, timeout_s=self._timeout_s)
            except ApiError as error:
                if error.status == HTTPStatus.BAD_REQUEST:
                    raise ConfigError(str(error)) from error
                raise
        return _objects(answer, "revoked")

    def peers(self) -> list[Json]:
        """Peers of the swarm and banned ones. Raises NoDaemonError, CommandError."""
        with _as_command_errors():
            answer = _object(self._client().get("/api/v1/peers", timeout_s=self._timeout_s)).get("peers")
        if not isinstance(answer, list):
            raise CommandError("the daemon's answer has no peers")
        return [entry for entry in answer if isinstance(entry, dict)]

    def ban(self, peer: str, reason: str, seconds: float | None) -> Json:
        """Ban a peer; its entry. Raises NoDaemonError, CommandError."""
        order = {"peer": peer, "reason": reason, "seconds": seconds}
        with _as_command_errors():
            return _object(self._client().post("/api/v1/ban", order, timeout_s=self._timeout_s))

    def order(self, name: str, body: Json | None = None) -> Json:
        """`pause`, `resume`, `finish` or `leave`; the state that follows. Raises NoDaemonError,
        CommandError."""
        with _as_command_errors():
            return _object(self._client().post(f"/api/v1/{name}", body, timeout_s=self._timeout_s))

    def page(self) -> str:
        """Address of the node's page, with its token. Raises NoDaemonError."""
        with _as_command_errors():
            return self._client().page

    def examine(self) -> list[Json]:
        """What other peers see of the daemon's connection. Raises NoDaemonError, CommandError."""
        with _as_command_errors():
            return _objects(self._client().post("/api/v1/examine", timeout_s=self._timeout_s), "sightings")

    def ping(self, peer: str) -> Json:
        """One round trip of the daemon to a peer. Raises NoDaemonError, CommandError."""
        with _as_command_errors():
            return _object(self._client().post("/api/v1/ping", {"peer": peer}, timeout_s=self._timeout_s))

    def apply_settings(self) -> Json:
        """Have the daemon take its configuration file as it is now.

        Raises NoDaemonError, CommandError; ConfigError for what is wrong with it.
        """
        with _as_command_errors():
            try:
                return _object(self._client().post("/api/v1/config", timeout_s=self._timeout_s))
            except ApiError as error:
                if error.status == HTTPStatus.CONFLICT:
                    raise ConfigError(str(error)) from error
                raise

    def health(self) -> Json:
        """State and reason of a daemon that is well. Raises NoDaemonError, CommandError."""
        with _as_command_errors():
            return _object(self._client().get("/healthz", timeout_s=self._timeout_s))

    def unban(self, peer: str) -> bool:
        """Lift a ban; False if there was none. Raises NoDaemonError, CommandError."""
        with _as_command_errors():
            answer = self._client().post("/api/v1/unban", {"peer": peer}, timeout_s=self._timeout_s)
        return _object(answer).get("lifted") is True

    def _client(self) -> ApiClient:
        return ApiClient.from_state_dir(self._state_dir)


@contextmanager
def _as_command_errors() -> Iterator[None]:
    try:
        yield
    except NoDaemon as error:
        raise NoDaemonError(f"{error}; start one with: talkoot run") from error
    except ApiError as error:
        raise CommandError(str(error)) from error


def _objects(answer: object, name: str) -> list[Json]:
    listed = _object(answer).get(name)
    if not isinstance(listed, list):
        raise CommandError(f"the daemon's answer has no {name}")
    return [entry for entry in listed if isinstance(entry, dict)]


def _object(answer: object) -> Json:
    if not isinstance(answer, dict):
        raise CommandError("the daemon's answer is no JSON object")
    return answer
