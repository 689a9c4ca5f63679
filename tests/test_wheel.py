"""The wheel: everything in it that the installed command needs, without the repository beside it."""

import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from importlib.util import find_spec
from pathlib import Path

import pytest

from talkoot.peer.protocol import PROTOCOL_VERSION

ROOT = Path(__file__).parent.parent
COMMIT = "0123456789abcdef0123456789abcdef01234567"
SOURCES = ("pyproject.toml", "setup.py", "README.md", "LICENSE")
PACKAGES = ("averaging", "cli", "compression", "dht", "peer")

pytestmark = [
    pytest.mark.trial,
    pytest.mark.processes,
    pytest.mark.skipif(find_spec("setuptools") is None, reason="NO WHEEL TRIED: setuptools is not installed"),
]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    for name in (*SOURCES, *PACKAGES):  # a build writes beside its sources
        subprocess.run(["cp", "-r", ROOT / name, folder], check=True)
    build = ["wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", "dist", "."]
    environment = os.environ | {"TALKOOT_BUILD_COMMIT": COMMIT}
    order = [sys.executable, "-m", "pip", *build]
    subprocess.run(order, check=True, cwd=folder, env=environment, capture_output=True, timeout=240)
    (made,) = (folder / "dist").iterdir()
    return made


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The command in an environment of its own; what it depends on is lent."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, symlinks=True)
    own = sysconfig.get_path("purelib", vars={"base": str(folder)})
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(own)
    lent = Path(sysconfig.get_path("purelib"))
    Path(own, "lent.pth").write_text(f"{lent}\n")
    return folder / "bin" / "python"


def said(installed: Path, *arguments: str, **environment: str) -> str:
    program = "import sys; from talkoot.cli.main import main; sys.argv[0] = 'talkoot'; main()"
    clean = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        [installed, "-c", program, *arguments],
        env=clean | environment,
        cwd="/",
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def completed(installed: Path, words: str) -> list[str]:
    """What a shell would offer for the last word."""
    place = str(words.count(" "))
    return said(installed, _TALKOOT_COMPLETE="complete_bash", COMP_WORDS=words, COMP_CWORD=place).split()


def test_all_that_belongs_into_it(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        (entry,) = [name for name in names if name.endswith("entry_points.txt")]
        assert "talkoot = talkoot.cli.main:main" in archive.read(entry).decode()
    assert {f"talkoot/{package}/py.typed" for package in PACKAGES} <= names
    web = {
        f"talkoot/{path.relative_to(ROOT)}" for path in (ROOT / "peer" / "web").rglob("*") if path.is_file()
    }
    sources = {
        f"talkoot/{path.relative_to(ROOT)}" for package in PACKAGES for path in (ROOT / package).rglob("*.py")
    }
    assert web <= names
    assert sources <= names, "a package is missing in pyproject.toml"


def test_the_installed_command(installed: Path) -> None:
    assert (
        said(installed, "--version") == f"talkoot 0.1.0, protocol {PROTOCOL_VERSION}, build {COMMIT[:12]}\n"
    )
    assert "limits.upload" in said(installed, "config", "list", "--state-dir", "/nonexistent/talkoot")
    script = said(installed, _TALKOOT_COMPLETE="source_bash")
    assert "_TALKOOT_COMPLETE=complete_bash" in script
    assert completed(installed, "talkoot conf") == ["config"]
    assert completed(installed, "talkoot config set limits.up") == ["limits.upload"]
