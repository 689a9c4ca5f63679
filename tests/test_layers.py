"""The house (floors, purity, names) holds: read from the source, so that no import can hide it."""

import ast
import importlib
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FLOORS = {
    "cli": {"peer", "averaging", "dht", "compression"},
    "peer": {"dht", "averaging", "compression"},
    "averaging": {"compression"},
    "dht": set[str](),
    "compression": set[str](),
}
"""What each package may import besides itself."""

PURE = ("averaging", "compression")
CLOCKS = {"datetime", "sched", "time"}
TASKS = {"asyncio", "concurrent", "contextvars", "multiprocessing", "queue", "threading", "uvloop"}
FILES = {"glob", "mmap", "os", "pathlib", "shutil", "subprocess", "sys", "tempfile"}
NETWORK = {"aiohttp", "hivemind", "http", "select", "selectors", "signal", "socket", "ssl", "urllib"}
CHANCE = {"random", "secrets", "uuid"}
WORLD = {"logging", "platform", "psutil", "structlog", "transformers"}
IMPURE = CLOCKS | TASKS | FILES | NETWORK | CHANCE | WORLD
"""Modules that a decision must not depend on."""
IMPURE_CALLS = {"open", "input", "print", "exec", "eval", "__import__"}
ONLY_UNDER_TYPE_CHECKING = {"random"}
"""A generator is passed in; its type may be named."""

LIBP2P = {"hivemind", "libp2p", "multiaddr", "trio"}
MAX_LINES = 500


def sources(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def imports(tree: ast.AST, typing_only: bool = False) -> Iterator[tuple[str, bool]]:
    """Yield (module, whether under TYPE_CHECKING) for each import in `tree`, wherever it stands."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, typing_only) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide the floor"
            module = node.module or ""
            yield module, typing_only
            if module == "talkoot":
                yield from ((f"talkoot.{alias.name}", typing_only) for alias in node.names)
        elif isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
            for child in node.body:
                yield from imports(ast.Module([child], []), typing_only=True)
            for child in node.orelse:
                yield from imports(ast.Module([child], []), typing_only)
        else:
            yield from imports(node, typing_only)


def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), str(path))


def named(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", sources(*FLOORS), ids=named)
def test_floors(path: Path) -> None:
    package = path.relative_to(ROOT).parts[0]
    for module, _ in imports(parsed(path)):
        first, _, rest = module.partition(".")
        assert first not in FLOORS, f"{module}: import talkoot.{module}"
        assert first not in LIBP2P or package == "dht", "only dht/ knows hivemind and py-libp2p"
        if first == "talkoot" and rest:
            target = rest.partition(".")[0]
            assert target == package or target in FLOORS[package], f"{package} may not import {module}"


@pytest.mark.parametrize("path", sources(*PURE), ids=named)
def test_purity(path: Path) -> None:
    tree = parsed(path)
    for module, typing_only in imports(tree):
        first = module.partition(".")[0]
        assert first not in IMPURE or (typing_only and first in ONLY_UNDER_TYPE_CHECKING), f"imports {module}"
        assert module != "torch.distributed", "imports torch.distributed"
    for node in ast.walk(tree):
        assert not isinstance(node, ast.AsyncFunctionDef | ast.Await), (
            f"line {getattr(node, 'lineno', 0)}: async"
        )
        if isinstance(node, ast.Call):
            assert ast.unparse(node.func) not in IMPURE_CALLS, (
                f"line {node.lineno}: {ast.unparse(node.func)}()"
            )


@pytest.mark.parametrize("path", sources("tests", "benchmarks"), ids=named)
def test_bare_names_are_never_imported(path: Path) -> None:
    """From the repository root `import peer.x` would load a second copy of the module."""
    for module, _ in imports(parsed(path)):
        assert module.partition(".")[0] not in FLOORS, f"{module}: import talkoot.{module}"


@pytest.mark.parametrize("path", sources(*FLOORS, "tests", "benchmarks"), ids=named)
def test_files_are_small(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= MAX_LINES


def test_compression_leaves_the_standard_library_its_name() -> None:
    """A regular package or test folder of this name would hide the one of Python 3.14."""
    assert not (ROOT / "compression" / "__init__.py").exists()
    assert not (ROOT / "tests" / "compression").exists()


def test_every_folder_is_packaged() -> None:
    """A folder that is missing from a list is missing from a wheel, and works from a checkout."""
    setuptools = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    folders = {path.parent.relative_to(ROOT) for path in sources(*FLOORS)}
    expected = {f"talkoot.{'.'.join(folder.parts)}": str(folder) for folder in folders}
    assert setuptools["package-dir"] == expected
    assert sorted(setuptools["packages"]) == sorted(expected)


def test_talkoot_is_a_namespace() -> None:
    talkoot = importlib.import_module("talkoot")
    assert getattr(talkoot, "__file__", None) is None
    assert not (ROOT / "talkoot").exists()
    assert "peer" not in sys.modules
