"""A client of the local API for the command line; imports nothing heavy."""

import json
import os
from pathlib import Path
from typing import Any, Self
from urllib.error import HTTPError, URLError
from urllib.request import HTTPRedirectHandler, ProxyHandler, Request, build_opener

MAX_ANSWER_BYTES = 64 << 20
"""Longest answer that is read."""

TIMEOUT_S = 10.0
"""How long an answer may take, unless the caller says otherwise."""


class NoDaemon(Exception):  # noqa: N818 - a state of affairs, not a fault; exit code 3
    """No daemon runs on this state directory."""


class ApiError(Exception):
    """The daemon answered, but not what was asked for."""

    def __init__(self, status: int, reason: str, detail: str) -> None:
        super().__init__(detail or reason)
        self.status = status
        self.reason = reason
        """`error` of the answer, or `timeout` or `malformed` (with status 0)."""


class _NoRedirects(HTTPRedirectHandler):
    """The token goes nowhere else."""

    def redirect_request(self, *_arguments: object) -> None:
        return None


# No proxy of the environment stands between a machine and itself.
_opener = build_opener(ProxyHandler({}), _NoRedirects())


class ApiClient:
    """Requests to the daemon that holds a state directory."""

    def __init__(self, port: int, token: str = "") -> None:
        self._base = f"http://127.0.0.1:{port}"
        self._token = token

    @classmethod
    def from_state_dir(cls, path: Path) -> Self:
        """A client for the daemon that announced itself in `path`.

        Raises NoDaemon where none did, or where its process is gone.
        """
        try:
            address = json.loads((path / "api.json").read_bytes())
            port, pid = int(address["port"]), int(address["pid"])
            token = (path / "api.token").read_text()
            os.kill(pid, 0)
        except PermissionError as error:
            raise NoDaemon(f"the daemon in {path} belongs to another user") from error
        except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
            raise NoDaemon(f"no daemon runs on {path}") from error
        return cls(port, token)

    @property
    def page(self) -> str:
        """Address of the page, with the token in the part that browsers do not send."""
        return f"{self._base}/#token={self._token}"

    def get(self, path: str, *, timeout_s: float = TIMEOUT_S) -> Any:
        """The JSON at `path` (`/api/v1/status`, say). Raises NoDaemon, ApiError."""
        return self._ask(self._request(path), timeout_s)

    def text(self, path: str, *, timeout_s: float = TIMEOUT_S) -> str:
        """The text at `path` (`/metrics`, say). Raises NoDaemon, ApiError."""
        return self._read(self._request(path), timeout_s).decode("utf-8", "replace")

    def post(self, path: str, body: object = None, *, timeout_s: float = TIMEOUT_S) -> Any:
        """Ask for a change, with `body` as JSON, and return its JSON. Raises NoDaemon, ApiError."""
        request = self._request(path)
        request.method = "POST"
        request.data = b"" if body is None else json.dumps(body).encode()
        request.add_header("X-Talkoot-Token", self._token)
        return self._ask(request, timeout_s)

    def _request(self, path: str) -> Request:
        return Request(self._base + path)  # noqa: S310 - always http to loopback

    def _ask(self, request: Request, timeout_s: float) -> Any:
        return _parse(self._read(request, timeout_s))

    def _read(self, request: Request, timeout_s: float) -> bytes:
        """At most one byte more than may be."""
        try:
            with _opener.open(request, timeout=timeout_s) as answer:
                return bytes(answer.read(MAX_ANSWER_BYTES + 1))
        except HTTPError as error:
            with error:
                raise _api_error(error.code, error.read(MAX_ANSWER_BYTES)) from error
        except TimeoutError as error:
            raise ApiError(0, "timeout", f"the daemon did not answer within {timeout_s:g} s") from error
        except URLError as error:
            if isinstance(error.reason, TimeoutError):
                raise ApiError(0, "timeout", f"no connection within {timeout_s:g} s") from error
            raise NoDaemon(f"no daemon answers at {self._base}") from error
        except OSError as error:
            raise NoDaemon(f"the daemon at {self._base} is gone") from error


def _parse(data: bytes) -> Any:
    try:
        if len(data) > MAX_ANSWER_BYTES:
            raise ValueError("too long")
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ApiError(0, "malformed", "the answer is no JSON; is this a talkoot daemon?") from error


def _api_error(status: int, data: bytes) -> ApiError:
    try:
        answer = json.loads(data)
        return ApiError(status, str(answer["error"]), str(answer["detail"]))
    except (ValueError, KeyError, TypeError, RecursionError):
        return ApiError(status, "malformed", f"HTTP status {status}; is this a talkoot daemon?")
