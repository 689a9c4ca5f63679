"""Asks a daemon on this machine through its HTTP API on loopback.

Plain urllib: commands are short, and a request is one JSON object each way.
"""

import http.client
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import msgspec

from talkoot.cli.errors import CommandError, NoDaemonError

MAX_ANSWER_BYTES = 64 * 1024 * 1024
"""Longest answer that is read."""

Json = dict[str, Any]
_direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class _Address(msgspec.Struct):
    port: int
    pid: int


class LocalApi:
    """The API of the daemon that holds a state directory; finds its port anew with every request."""

    def __init__(self, state_dir: Path, *, timeout_s: float = 10.0) -> None:
        self._state_dir = state_dir
        self._timeout_s = timeout_s

    def status(self) -> Json:
        """GET /api/v1/status. Raises as `get`."""
        return self.get("/api/v1/status")

    def rounds(self) -> list[Json]:
        """The rounds that the daemon remembers, newest last. Raises as `get`."""
        answer = self.get("/api/v1/rounds").get("rounds")
        if not isinstance(answer, list):
            raise CommandError("the daemon's answer is none of rounds")
        return answer

    def invite(self) -> str:
        """A new invite. Raises as `get`."""
        answer = self.post("/api/v1/invite").get("invite")
        if not isinstance(answer, str):
            raise CommandError("the daemon's answer has no invite")
        return answer

    def get(self, path: str) -> Json:
        """Raises NoDaemonError when none answers, CommandError when it refuses or answers no JSON object."""
        return self._ask(urllib.request.Request(self._base() + path))  # noqa: S310 - always http to loopback

    def post(self, path: str) -> Json:
        """As `get`, with the token that only this user can read."""
        base = self._base()
        try:
            token = (self._state_dir / "api.token").read_text().strip()
        except FileNotFoundError as error:
            raise self._nobody() from error
        headers = {"X-Talkoot-Token": token, "Content-Type": "application/json"}
        request = urllib.request.Request(base + path, data=b"{}", headers=headers, method="POST")  # noqa: S310
        return self._ask(request)

    def _base(self) -> str:
        try:
            data = (self._state_dir / "api.json").read_bytes()
            return f"http://127.0.0.1:{msgspec.json.decode(data, type=_Address).port}"
        except (FileNotFoundError, msgspec.DecodeError) as error:
            raise self._nobody() from error

    def _ask(self, request: urllib.request.Request) -> Json:
        try:
            with _direct.open(request, timeout=self._timeout_s) as response:
                data = response.read(MAX_ANSWER_BYTES)
        except urllib.error.HTTPError as error:
            with error:
                raise CommandError(_refusal(error)) from error
        except (urllib.error.URLError, http.client.HTTPException, OSError) as error:
            raise self._nobody() from error
        try:
            return msgspec.json.decode(data, type=Json)
        except msgspec.DecodeError as error:
            raise CommandError("the daemon's answer is no JSON object") from error

    def _nobody(self) -> NoDaemonError:
        return NoDaemonError(f"no daemon answers for {self._state_dir}; start one with: talkoot run")


def _refusal(error: urllib.error.HTTPError) -> str:
    """What the daemon said, or the bare status."""
    try:
        answer = msgspec.json.decode(error.read(65536), type=Json)
        return str(answer["error"])
    except (msgspec.DecodeError, KeyError, OSError):
        return f"the daemon answered {error.code} {error.reason}"
