"""The hook that ends all unpickling trips where it must, and only there."""

import io
import multiprocessing
import os
import pickle  # noqa: TID251 - to see that it is ended
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import unpickling
from unpickling import UnpickledError

LOADS = "import pickle\ndef load(data): return pickle.loads(data)\n"
CALLS = "def load(data): return other(data)\n"


@pytest.fixture(autouse=True)
def trips_are_noted_elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(unpickling.REPORT, str(tmp_path / "report"))


@contextmanager
def ended(match: str) -> Iterator[None]:
    """What is inside is ended by the hook, and that is no failure."""
    with pytest.raises(UnpickledError, match=match):
        yield
    assert unpickling.tripped
    unpickling.tripped.clear()


def module(name: str, source: str, **more: Any) -> Any:
    """The `load` of a module that would be called so."""
    namespace: dict[str, Any] = {"__name__": name, **more}
    exec(source, namespace)
    return namespace["load"]


PICKLE = pickle.dumps(Path("x"))


def test_our_own_code_cannot_unpickle(tmp_path: Path) -> None:
    load = module("talkoot.peer.made_up", LOADS)
    with ended(r"talkoot\.peer\.made_up unpickles pathlib"):
        load(PICKLE)
    assert "made_up" in (tmp_path / "report").read_text()


def test_nor_can_a_library_on_our_behalf() -> None:
    theirs = module("somebody.elses", LOADS)
    ours = module("talkoot.dht.made_up", CALLS, other=theirs)
    with ended(r"somebody\.elses, for talkoot\.dht\.made_up"):
        ours(PICKLE)
    assert theirs(PICKLE) == Path("x")  # by itself it may


def test_nor_numpy() -> None:
    file = io.BytesIO()
    np.save(file, np.array([Path("x")], dtype=object), allow_pickle=True)
    file.seek(0)
    ours = module("talkoot.peer.made_up", CALLS, other=lambda file: np.load(file, allow_pickle=True))
    with ended("numpy"):
        ours(file)


def test_pickles_without_a_name_in_them_are_no_harm() -> None:
    """They are data; ruff keeps the module out of our code all the same."""
    assert module("talkoot.peer.made_up", LOADS)(pickle.dumps([1, "x"])) == [1, "x"]


@pytest.mark.parametrize("weights_only", [False, True])
def test_torch_load_is_ended(tmp_path: Path, weights_only: bool) -> None:
    torch.save(torch.zeros(3), tmp_path / "x")
    with ended(r"torch\.load"):
        torch.load(tmp_path / "x", weights_only=weights_only)  # noqa: TID251
    with ended(r"torch\.load"):
        torch.load(io.BytesIO((tmp_path / "x").read_bytes()), weights_only=weights_only)  # noqa: TID251


def test_multiprocessing_may_read_what_it_wrote() -> None:
    receiver, sender = multiprocessing.Pipe(duplex=False)
    sender.send(Path("x"))
    ours = module("talkoot.peer.made_up", "def load(pipe): return pipe.recv()\n")
    assert ours(receiver) == Path("x")


@pytest.mark.processes
@pytest.mark.parametrize(
    "program",
    [
        f"exec({LOADS!r}, space := dict(__name__='talkoot.peer.x')); space['load']({PICKLE!r})",
        "import torch; torch.save(torch.zeros(1), 'x'); torch.load('x')",
    ],
)
def test_processes_that_tests_start_are_watched(tmp_path: Path, program: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert "UnpickledError" in done.stderr
    assert done.returncode == 1
    assert Path(os.environ[unpickling.REPORT]).exists()


@pytest.mark.processes
def test_a_test_fails_for_what_was_swallowed_or_happened_in_a_process(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(
        "import subprocess, sys\n"
        f"SOURCE, DATA = {LOADS!r}, {PICKLE!r}\n"
        "def test_swallowed():\n"
        "    exec(SOURCE, space := dict(__name__='talkoot.peer.x'))\n"
        "    try: space['load'](DATA)\n"
        "    except Exception: pass\n"
        "def test_elsewhere():\n"
        "    program = f\"exec({SOURCE!r}, s := dict(__name__='talkoot.peer.y')); s['load']({DATA!r})\"\n"
        "    assert subprocess.run([sys.executable, '-c', program], stderr=subprocess.DEVNULL).returncode\n"
    )
    tests = str(Path(__file__).parent)
    alone = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_XDIST")}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "conftest", "-p", "no:cacheprovider", "test_it.py"],
        cwd=tmp_path,
        env={**alone, "PYTHONPATH": os.pathsep.join([tests, alone["PYTHONPATH"]])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "test_swallowed: talkoot.peer.x unpickles pathlib" in done.stdout
    assert "1 failed, 1 passed" in done.stdout
    assert "unpickled in a process that a test started:" in done.stderr
    assert "talkoot.peer.y unpickles pathlib" in done.stderr
    assert done.returncode == 1
