"""A stand-in for `talkoot run`, for tests of the demo: answers its HTTP API without a swarm behind it.

All fake nodes of a folder share a clock (the founder's first start), so they agree on the rounds. A file
`die-<name>` in the folder makes the node of that name end at once; `differ-<name>` makes its digests wrong.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np

ROUND_S = 0.4
EXCHANGE_SHARE = 0.5


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("command", choices=["run"])
    parser.add_argument("manifest", nargs="?", type=Path)
    parser.add_argument("--state-dir", type=Path, required=True)
    for option in ("--join", "--port", "--profile", "--device", "--threads"):
        parser.add_argument(option)
    return parser.parse_args()


class Node:
    def __init__(self, options: argparse.Namespace) -> None:
        self.name = options.state_dir.name
        self.folder = options.state_dir.parent
        self.state_dir: Path = options.state_dir
        self.began = time.time()
        clock = self.folder / "clock"
        if options.manifest is not None and not clock.exists():
            clock.write_text(str(self.began))
        self.epoch = float(clock.read_text())

    @property
    def position(self) -> float:
        return (time.time() - self.epoch) / ROUND_S

    def status(self) -> dict[str, object]:
        done, share = divmod(self.position, 1)
        own = int((time.time() - self.began) * 10)
        return {
            "state": "exchanging" if share < EXCHANGE_SHARE else "training",
            "peer_id": self.name,
            "round": int(done),
            "steps_per_second": 10.0,
            "steps_total": int((time.time() - self.epoch) * 10),
            "tokens_total": int((time.time() - self.epoch) * 10) * 8192,
            "loss": 3.0,
            "eval_loss": 3.1,
            "bytes_sent": own * 1000,
            "bytes_received": own * 1000,
            "state_bytes_sent": 0,
            "rounds_aborted": 0,
            "inner_share": 0.95,
            "numel": 1000,
        }

    def rounds(self) -> dict[str, object]:
        first = int((self.began - self.epoch) / ROUND_S)
        wrong = "bad" if (self.folder / f"differ-{self.name}").exists() else ""
        return {
            "rounds": [
                {
                    "round": number,
                    "digest": f"{wrong}{number:064x}",
                    "kind": "final",
                    "counted": sorted(path.name for path in self.folder.glob("peer-?")),
                    "global_step": 30 * (number + 1),
                    "tokens": 30 * 8192 * (number + 1),
                    "eval_loss": 5.55 / (2 + number),
                }
                for number in range(first, int(self.position))
            ]
        }


def serve(node: Node) -> ThreadingHTTPServer:
    class Handler(BaseHTTPRequestHandler):
        def answer(self, value: object) -> None:
            data = json.dumps(value).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def do_GET(self) -> None:
            self.answer(node.status() if self.path.endswith("status") else node.rounds())

        def do_POST(self) -> None:
            assert self.headers["X-Talkoot-Token"] == "secret"
            self.answer({"invite": "talkoot://fake"})

        def log_message(self, *_: object) -> None:
            pass

    return ThreadingHTTPServer(("127.0.0.1", 0), Handler)


def main() -> None:
    node = Node(parse())
    if (node.folder / f"die-{node.name}").exists():
        sys.exit("talkoot: no memory for one micro-batch")
    from talkoot.peer.head import Head, write_head
    from talkoot.peer.statedir import StateDir

    outer = StateDir(node.state_dir).outer
    (outer / "a").mkdir(parents=True, exist_ok=True)
    np.zeros(1000, dtype="<f4").tofile(outer / "a" / "theta.f32")
    write_head(outer, Head(generation="a", round=0, digest=bytes(32), ledger=b"", certificate=b""))
    trainer = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    server = serve(node)
    (node.state_dir / "api.token").write_text("secret")
    (node.state_dir / "api.json").write_text(json.dumps({"port": server.server_port, "pid": os.getpid()}))
    stopped = threading.Event()
    signal.signal(signal.SIGINT, lambda *_: stopped.set())
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print("fake node", node.name, "child", trainer.pid, flush=True)
    stopped.wait()
    server.shutdown()
    if not (node.folder / f"orphan-{node.name}").exists():
        trainer.kill()


if __name__ == "__main__":
    main()
