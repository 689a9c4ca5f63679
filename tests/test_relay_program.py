"""`talkoot relay` as an operator meets it: its words, its pages, its end, and what it imports."""

import json
import re
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from outside_rig import needs_libp2p
from prometheus_client.parser import text_string_to_metric_families

from talkoot.cli import main as main_module
from talkoot.dht.relay.tally import Tally
from talkoot.peer.metrics import FAMILIES
from talkoot.peer.metrics.relay import RELAY, exposition

TALKOOT = (sys.executable, "-m", "talkoot.cli.main")
ADDRESS = "/ip4/192.0.2.1/tcp/4001/p2p/12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN"


@contextmanager
def relaying(folder: Path, *arguments: str) -> Iterator[tuple[subprocess.Popen[str], str, str]]:
    """A relay for anybody: the process, its address, and where its pages are."""
    command = [*TALKOOT, "relay", "--any", "--listen", "127.0.0.1", "--port", "0", "--http", "127.0.0.1:0"]
    process = subprocess.Popen(
        [*command, "--state-dir", str(folder), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        address, said = process.stdout.readline().strip(), process.stdout.readline()
        found = re.search(r"http://[0-9.:]+", said)
        assert found, said
        yield process, address, found[0]
    finally:
        process.kill()
        process.communicate()


def get(url: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(url, timeout=20) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


@pytest.mark.processes
@needs_libp2p
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_runs_and_stops_as_it_is_told(tmp_path: Path, number: signal.Signals) -> None:
    with relaying(tmp_path) as (process, address, pages):
        assert address.startswith("/ip4/127.0.0.1/tcp/")
        code, text = get(f"{pages}/healthz")
        health = json.loads(text)
        assert (code, health["state"], health["connections"]) == (200, "relaying", 0)
        code, text = get(f"{pages}/metrics")
        names = {family.name for family in text_string_to_metric_families(text)}
        assert {family.name.removesuffix("_total") for family in RELAY} <= names
        assert get(f"{pages}/other")[0] == 404
        host, port = pages.removeprefix("http://").split(":")
        for request in (b"POST / HTTP/1.1\r\n\r\n", b"x\r\n\r\n", bytes(9000)):
            with socket.create_connection((host, int(port)), timeout=20) as connection:
                connection.sendall(request)
                assert connection.recv(100).split(b" ")[1] in (b"400", b"405")
        second = subprocess.run(
            [*TALKOOT, "relay", "--any", "--state-dir", str(tmp_path)],
            capture_output=True,
            text=True,
            check=False,
        )
        assert (second.returncode, second.stdout) == (2, "")
        assert "another relay uses the state directory" in second.stderr
        process.send_signal(number)
        assert process.wait(timeout=30) == 0
    with relaying(tmp_path) as (_, again, _):
        assert again.rpartition("/")[2] == address.rpartition("/")[2], "its name stays"


@pytest.mark.processes
@needs_libp2p
def test_a_port_that_is_taken_is_one_line(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = subprocess.run(
            [
                *TALKOOT,
                "relay",
                "--any",
                "--listen",
                "127.0.0.1",
                "--port",
                port,
                "--state-dir",
                str(tmp_path),
            ],
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 2
    assert done.stderr.startswith(f"talkoot: cannot listen on port {port}: ")
    assert len(done.stderr.splitlines()) == 1


@needs_libp2p
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "say whom to serve"),
        (("nothing",), "neither an invite (talkoot://...) nor a manifest"),
        (("talkoot://abc",), "the invite was cut short"),
        (("--any", "--listen", "here"), "--listen: 'here' is no IP address"),
        (("--any", "--port", "70000"), "port must be 0 to 65535"),
        (("--any", "--announce", "1.2.3.4:5"), "--announce: not a TCP multiaddr"),
        (("--any", "--announce", ADDRESS), "must end with the port"),
        (("--any", "--peer", "/ip4/1.2.3.4/tcp/1"), "--peer: "),
        (("--any", "--http", "8701"), "--http: '8701' is not HOST:PORT"),
        (("--any", "--rate", "fast"), "--rate: fast is no size"),
        (("--any", "--circuit-time", "0s"), "0s is no length of time"),
        (("--any", "--reservations", "0"), "reservations must be more than 0"),
    ],
)
def test_bad_input_is_one_clear_line(
    arguments: tuple[str, ...],
    words: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "argv", ["talkoot", "relay", *arguments])
    with pytest.raises(SystemExit) as ended:
        main_module.main()
    assert ended.value.code == 2
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 1
    assert told[0].startswith("talkoot: ")
    assert words in told[0]


@needs_libp2p
def test_a_relay_imports_neither_torch_nor_hivemind() -> None:
    program = (
        "import sys, talkoot.cli.main, talkoot.dht.relay.program, talkoot.peer.metrics.relay\n"
        "print([name for name in ('torch', 'hivemind', 'numpy', 'transformers') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_metrics_are_those_that_are_declared_and_few() -> None:
    tally = Tally(passed_bytes=7)
    tally.refused = Counter({"outsider": 3, "a reason that nobody knows": 2})
    families = list(text_string_to_metric_families(exposition(tally, 10.0).decode()))
    ours = {family.name: family for family in families if family.name.startswith("talkoot_")}
    assert set(ours) == {family.name.removesuffix("_total") for family in RELAY}
    samples = [sample for family in ours.values() for sample in family.samples]
    assert len(samples) <= 80
    assert not {family.name for family in RELAY} & FAMILIES.keys(), "a name means one thing"
    values = {(sample.name, *sample.labels.values()): sample.value for sample in samples}
    assert values["talkoot_relay_passed_bytes_total",] == 7
    assert values["talkoot_relay_refusals_total", "outsider"] == 3
    assert values["talkoot_relay_refusals_total", "other"] == 2
    assert values["talkoot_relay_refusals_total", "quota"] == 0
