"""Targets that lie to Prometheus, or flood it: with the shipped configuration only they themselves are down.

A node passes on nothing but numbers under names of its own (`test_observing.py`); this is what stands behind
that.
"""

import gzip
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from prometheus_rig import CONFIG, needs_prometheus, promtool, shipped
from swarm_help import until

HONEST = "# TYPE talkoot_round gauge\ntalkoot_round 5\ntalkoot_inner_steps_total 40\nprocess_open_fds 9\n"

BODIES = {
    "honest": HONEST,
    "many-series": "".join(f'talkoot_round{{n="{number}"}} 1\n' for number in range(100_000)),
    "long-body": HONEST + ("#" + "x" * 998 + "\n") * 5_000,
    "long-label": f'talkoot_round{{state="{"x" * 10_000}"}} 1\n',
    "many-labels": "talkoot_round{" + ",".join(f'l{number}="1"' for number in range(40)) + "} 1\n",
    "forged-labels": 'talkoot_round{instance="honest",job="talkoot",role="full",swarm="s"} 666\n',
    "forged-up": 'up 0\nup{instance="honest"} 0\nALERTS{alertname="X"} 1\njob:talkoot_round:max 9\n'
    'scrape_duration_seconds{instance="honest"} 9\ntalkoot_round 5\n',
    "forged-time": "talkoot_round 7 99999999999999\n",
    "not-metrics": "<html>talkoot_round 1</html>",
    "bomb": "",
    "drip": HONEST,
}
"""By name of the target."""

BOMB = gzip.compress(b"#" + b"x" * 20_000_000 + b"\n")

DOWN = {"many-series", "long-body", "long-label", "many-labels", "not-metrics", "bomb", "drip"}


class Handler(BaseHTTPRequestHandler):
    """A node whose peers say what they like, unfiltered."""

    ended = threading.Event()

    def do_GET(self) -> None:
        name = self.path.strip("/")
        if name == "sd":
            port = int(self.headers["Host"].partition(":")[2])
            targets = [
                {
                    "targets": [f"127.0.0.1:{port}"],
                    "labels": {
                        "__metrics_path__": f"/{each}", "instance": each, "role": "full", "swarm": "s"
                    },
                }
                for each in BODIES
            ]  # fmt: skip
            return self.answer(json.dumps(targets).encode(), "application/json")
        body = BODIES[name].encode()
        if name == "drip":
            return self.drip(body)
        if name == "bomb":
            return self.answer(BOMB, "text/plain", "gzip")
        return self.answer(body, "text/plain")

    def answer(self, body: bytes, kind: str, encoding: str | None = None) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        if encoding:
            self.send_header("Content-Encoding", encoding)
        self.end_headers()
        self.wfile.write(body)

    def drip(self, body: bytes) -> None:
        """One byte now and then, for as long as somebody reads."""
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        for at in range(len(body)):
            self.wfile.write(body[at : at + 1])
            if self.ended.wait(0.2):
                return

    def log_message(self, *_: object) -> None:
        pass


class Server(ThreadingHTTPServer):
    """Says nothing of readers that have gone."""

    def handle_error(self, *_: object) -> None:
        pass


@contextmanager
def exporters() -> Iterator[int]:
    """Serve them all; the port."""
    Handler.ended.clear()
    server = Server(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        Handler.ended.set()
        server.shutdown()
        thread.join()
        server.server_close()


@needs_prometheus
def test_the_shipped_configuration_is_sound() -> None:
    promtool("check", "config", str(CONFIG))


@needs_prometheus
@pytest.mark.processes
def test_only_the_liars_own_targets_drop(tmp_path: Path) -> None:
    with exporters() as port, shipped(tmp_path, port) as live:
        until(lambda: len(live.query("count_over_time(up[1m]) >= 2")) == len(BODIES), "two scrapes of each")
        ups = live.query("up")
        assert {labels["instance"]: value for labels, value in ups} == {
            name: 0 if name in DOWN else 1 for name in BODIES
        }
        assert len(ups) == len(BODIES)  # no forged one beside them

        told: dict[str, dict[str, float]] = {}
        for labels, value in live.query('{__name__!=""}'):
            assert labels.keys() <= {"__name__", "job", "instance", "role", "swarm"}
            if not labels["__name__"].startswith(("up", "scrape_")):
                told.setdefault(labels["instance"], {})[labels["__name__"]] = value
        assert told == {
            "honest": {"talkoot_round": 5, "talkoot_inner_steps_total": 40, "process_open_fds": 9},
            "forged-labels": {"talkoot_round": 666},
            "forged-up": {"talkoot_round": 5},
            "forged-time": {"talkoot_round": 7},
        }
