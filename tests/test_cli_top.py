"""`talkoot top` and the tables: what they draw, in which room, and how they end."""

import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from fcntl import ioctl
from pathlib import Path
from termios import TIOCSWINSZ
from typing import Any

import pytest
from fuzzing import examples
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from talkoot.cli.table import table
from talkoot.cli.top_frame import View, frame

PEERS = ["12D3KooW" + "x" * 35 + f"peer{number:04d}" for number in range(40)]


def record(number: int, **changes: Any) -> dict[str, Any]:
    return {
        "round": number, "kind": "final", "attempt": 0, "counted": PEERS[:3], "own": True, "seconds": 1.25,
        "left_out": [], "phases": {"form": 0.1}, "digest": f"{number:064x}", "bytes_sent": 1000,
        "eval_loss": 5.0 / (1 + number), "loss": 5.1 / (1 + number), "codec": "int8",
    } | changes  # fmt: skip


def view(num_rounds: int = 30, num_peers: int = 3, **changes: Any) -> View:
    status = {
        "peer_id": PEERS[0], "swarm_name": "demo", "swarm_id": "ab" * 32, "state": "training", "reason": "",
        "round": num_rounds, "frontier": num_rounds, "uptime_s": 61.0, "role": "full", "device": "cpu",
        "steps_per_second": 2.5, "steps_total": 1200, "tokens_total": 2_000_000, "inner_share": 0.93,
        "rounds_committed": num_rounds, "rounds_aborted": 1, "loss": 1.5, "eval_loss": 1.4,
        "bytes_sent": 10**6, "bytes_received": 2 * 10**6, "memory_bytes": 10**8,
        "peers": [{"peer_id": peer, "speed": 1.5, "loss": 1.25} for peer in PEERS[1 : 1 + num_peers]],
    } | changes  # fmt: skip
    peers = [
        {"peer_id": peer, "state": "training", "connected": True, "round": num_rounds, "score": -1.0,
         "public_name": "Ada" if index == 0 else None}
        for index, peer in enumerate(PEERS[1 : 1 + num_peers])
    ]  # fmt: skip
    return View(status=status, rounds=[record(number) for number in range(num_rounds)], peers=peers)


def text(shown: View, width: int = 80, height: int = 23) -> str:
    return "\n".join(line.plain for line in frame(shown, width, height))


def test_a_small_terminal_has_all_that_matters() -> None:
    drawn = text(view())
    assert len(drawn.splitlines()) <= 23
    for words in (
        "talkoot demo", "training", "round 30", "2.50 steps/s on cpu", "93 % of the time in steps",
        "1.500 training, 1.400 held out", "ours counted in 30 of the last 30", "held-out loss by round",
        "peer0001", "Ada", "more; talkoot rounds shows all",
    ):  # fmt: skip
        assert words in drawn
    assert re.search(r"29 +final +3 +counted +1\.2 s", drawn)


@examples(60)
@given(
    width=st.integers(1, 200),
    height=st.integers(1, 80),
    num_rounds=st.integers(0, 40),
    num_peers=st.integers(0, 39),
)
def test_no_size_is_too_small(width: int, height: int, num_rounds: int, num_peers: int) -> None:
    lines = frame(view(num_rounds, num_peers), width, height)
    assert 1 <= len(lines) <= height
    assert all(line.cell_len <= max(40, width) for line in lines)


def test_a_node_that_has_just_started_is_drawn() -> None:
    assert "no state yet" in text(View(status={"state": "starting", "round": None}))


def test_what_comes_from_elsewhere_does_not_act_on_the_terminal() -> None:
    drawn = text(view(swarm_name="\x1b[2Jevil[bold]", warning="a\nb\x07"))
    assert "\x1b" not in drawn
    assert "\x07" not in drawn
    assert "?[2Jevil[bold]" in drawn
    assert "a?b" in drawn


def test_a_low_terminal_has_no_curve() -> None:
    assert "loss by round" not in text(view(), height=20)


@examples(30)
@given(st.lists(st.lists(st.text("a\u4e2d\u00e9 ", max_size=6), min_size=3, max_size=3), max_size=5))
def test_columns_of_a_table_are_aligned_in_cells(rows: list[list[str]]) -> None:
    lines = table(("x", "y", "z"), rows, left=("x",)).splitlines()
    wide = max(cell_len(cell) for cell in ["x", *(row[0] for row in rows)])
    assert all(set(_cells(line)[wide : wide + 2]) <= {" "} for line in lines)


def _cells(line: str) -> str:
    return "".join(character * cell_len(character) for character in line)


# -- the program -------------------------------------------------------------------------------------


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Path]:
    """A state directory with a daemon that answers, which this process is."""
    from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
    from threading import Thread

    shown = view()
    answers = {
        "/api/v1/status": shown.status,
        "/api/v1/rounds?last=200": {"rounds": shown.rounds},
        "/api/v1/peers": {"peers": shown.peers},
    }

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = json.dumps(answers[self.path]).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    thread = Thread(target=server.serve_forever)
    thread.start()
    (tmp_path / "api.json").write_text(json.dumps({"port": server.server_port, "pid": os.getpid()}))
    (tmp_path / "api.token").write_text("x")
    try:
        yield tmp_path
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextmanager
def started(state: Path, **environment: str) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """`talkoot top` in a terminal of its own, with the terminal's other end."""
    # COLUMNS and LINES, which readline sets behind Python's back, go before the terminal's own size.
    known = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
    ours, its = pty.openpty()
    resize(ours, 24, 80)
    command = [sys.executable, "-m", "talkoot.cli.main", "top", "--state-dir", str(state)]
    with subprocess.Popen(command, stdin=its, stdout=its, stderr=its, env=known | environment) as process:
        os.close(its)
        try:
            yield process, ours
        finally:
            process.kill()
            os.close(ours)


def resize(terminal: int, height: int, width: int) -> None:
    ioctl(terminal, TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))


def read_until(terminal: int, wanted: str, seconds: float = 60.0) -> str:
    """What is drawn until the words appear, or until the program ends."""
    seen, deadline = "", time.monotonic() + seconds
    while wanted not in seen and time.monotonic() < deadline:
        if not select.select([terminal], [], [], 1.0)[0]:
            continue
        try:
            data = os.read(terminal, 65536)
        except OSError:
            break
        seen += data.decode("utf-8", "replace")
        if not data:
            break
    return seen


@pytest.mark.parametrize("leave", ["q", "Ctrl-C"])
def test_it_lives_in_a_terminal_follows_its_size_and_leaves_cleanly(node: Path, leave: str) -> None:
    no_color = "1" if leave == "q" else ""
    with started(node, TERM="xterm-256color", NO_COLOR=no_color) as (process, terminal):
        drawn = read_until(terminal, "q quits")
        assert "\x1b[?1049h" in drawn
        assert ("\x1b[32m" in drawn) == (leave != "q")
        resize(terminal, 10, 60)
        for _ in range(20):  # frames that were under way
            again = read_until(terminal, "q quits")
            if "loss by round" not in again:
                break
        assert "loss by round" not in again
        os.write(terminal, b"q") if leave == "q" else process.send_signal(signal.SIGINT)
        assert "\x1b[?1049l" in read_until(terminal, "\x1b[?1049l")
        assert process.wait(60) == 0


def test_a_dumb_terminal_gets_one_plain_snapshot(node: Path) -> None:
    with started(node, TERM="dumb") as (process, terminal):
        drawn = read_until(terminal, "counted")
        assert process.wait(60) == 0
    assert "talkoot demo" in drawn
    assert "\x1b" not in drawn


def test_a_pipe_gets_one_plain_snapshot_and_a_program_json(node: Path) -> None:
    from typer.testing import CliRunner

    from talkoot.cli.main import app

    where = ["--state-dir", str(node)]
    result = CliRunner().invoke(app, ["top", *where])
    assert result.exit_code == 0
    assert "talkoot demo" in result.output
    assert "\x1b" not in result.output
    values = json.loads(CliRunner().invoke(app, ["top", "--json", *where]).output)
    assert set(values) == {"status", "rounds", "peers"}
    assert re.search("peer0001 +Ada", CliRunner().invoke(app, ["peers", *where]).output)
