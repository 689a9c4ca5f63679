"""A stand-in for the Hugging Face Hub: the few requests that an upload makes, on loopback."""

import base64
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class FakeHub:
    """What it was asked, and what it holds."""

    token: str
    private: bool = False
    """Of the repository, which is there from the start if `exists`."""
    exists: bool = False
    asked: list[str] = field(default_factory=list)
    files: dict[str, bytes] = field(default_factory=dict)
    endpoint: str = ""

    def answer(self, method: str, path: str, token: str, body: bytes) -> tuple[int, Any]:
        self.asked.append(f"{method} {path}")
        if token != f"Bearer {self.token}":
            return 401, {"error": f"who is {token}?"}
        if path == "/api/repos/create":
            wanted = json.loads(body)
            if self.exists:
                return 409, {
                    "error": "You already created this model repo",
                    "url": self.endpoint + "/me/llama",
                }
            self.exists, self.private = True, wanted.get("visibility") == "private"
            return 200, {"url": f"{self.endpoint}/me/llama", "name": "me/llama", "id": "1"}
        if path == "/api/models/me/llama/preupload/main":
            names = [item["path"] for item in json.loads(body)["files"]]
            return 200, {
                "files": [{"path": name, "uploadMode": "regular", "shouldIgnore": False} for name in names]
            }
        if path == "/api/models/me/llama/commit/main":
            for line in body.splitlines():
                entry = json.loads(line)
                if entry["key"] == "file":
                    self.files[entry["value"]["path"]] = base64.b64decode(entry["value"]["content"])
            url = f"{self.endpoint}/me/llama/commit/" + "0" * 40
            return 200, {"success": True, "commitOid": "0" * 40, "commitUrl": url, "hookOutput": ""}
        if path.startswith("/api/models/me/llama"):
            return 200, {
                "id": "me/llama",
                "private": self.private,
                "sha": "0" * 40,
                "siblings": [],
                "tags": [],
            }
        if path == "/api/validate-yaml":
            return 200, {"errors": [], "warnings": []}
        return 404, {"error": "not here"}


@contextmanager
def fake_hub(token: str) -> Iterator[FakeHub]:
    """Serves until the end of the block."""
    hub = FakeHub(token)

    class Handler(BaseHTTPRequestHandler):
        def _serve(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            path = self.path.partition("?")[0]
            status, answer = hub.answer(self.command, path, self.headers.get("Authorization", ""), body)
            data = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data)

        do_GET = do_POST = do_HEAD = _serve  # noqa: N815 - the base class asks for these names

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        hub.endpoint = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield hub
        finally:
            server.shutdown()
            thread.join()
