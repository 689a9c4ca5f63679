"""Settings for all tests."""

import logging
import os
import sys
import tempfile
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest
import structlog
import unpickling

# Two test processes with two OpenMP threads each on two cores spend their time waiting for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Nothing is ever unpickled, here and in every process that a test starts.
# The processes among which pytest-xdist shares the tests out report to the one that started them.
_shared = "PYTEST_XDIST_WORKER" in os.environ
_report = Path(
    os.environ[unpickling.REPORT] if _shared else tempfile.mkdtemp(prefix="talkoot-tests-") + "/unpickled"
)
os.environ[unpickling.REPORT] = str(_report)
os.environ["PYTHONPATH"] = os.pathsep.join(
    filter(None, (str(Path(__file__).parent / "children"), os.environ.get("PYTHONPATH")))
)
unpickling.watch()


@pytest.fixture
def restored_logging() -> Iterator[None]:
    """What a test sets up of the log is gone after it."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Tests with daemons share one lane: two swarms at once on two cores would wait for each other."""
    if config.pluginmanager.hasplugin("xdist"):
        for item in items:
            if item.get_closest_marker("processes"):
                item.add_marker(pytest.mark.xdist_group("processes"))


def pytest_collection_finish() -> None:
    """A `torch.load` from memory opens no file."""
    for name in ("torch", "torch.serialization"):
        if name in sys.modules:
            vars(sys.modules[name])["load"] = _refused


def _refused(*_: object, **__: object) -> None:
    unpickling.end("torch.load")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """A test in which something was unpickled fails, also where the error was swallowed."""
    result = yield
    if unpickling.tripped:
        what, unpickling.tripped[:] = "; ".join(unpickling.tripped), []
        pytest.fail(f"{item.name}: {what}")
    return result


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Processes that were started say it in a file."""
    if _shared:
        return
    if _report.exists():
        sys.stderr.write(f"\nunpickled in a process that a test started:\n{_report.read_text()}")
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
        _report.unlink()
    _report.parent.rmdir()
