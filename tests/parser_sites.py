"""Where the source parses bytes that come from elsewhere: read from the source, so that none is forgotten."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKAGES = ("averaging", "cli", "dht", "peer")
"""`compression` has its own targets (`fuzz_codecs.py`), one for each kind of codec."""

PARSING = re.compile(
    r"msgspec\.(msgpack|json)\.decode|json\.loads?|tomllib\.loads?|safe_open"
    r"|.*\.(unpack|unpack_from|iter_unpack)"
)
"""Calls that parse, as they are written; with those of a `Decoder` of the module."""


LAST = {"decode", "load", "loads", "safe_open", "unpack", "unpack_from", "iter_unpack"}


def sites() -> set[str]:
    """`file function` of each place where something is parsed."""
    files = (path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
    return {
        f"{path.relative_to(ROOT)} {function}"
        for path in files
        if any(f"{word}(" in (text := path.read_text()) for word in LAST)
        for function in _in(ast.parse(text))
    }


def _last(function: ast.expr) -> str:
    """The last word of what is called."""
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


def _in(module: ast.Module) -> Iterator[str]:
    decoders = {
        ast.unparse(node.target if isinstance(node, ast.AnnAssign) else node.targets[0])
        for node in module.body
        if isinstance(node, ast.Assign | ast.AnnAssign)
        and node.value
        and "Decoder" in ast.unparse(node.value)
    }

    def walk(node: ast.AST, inside: str) -> Iterator[str]:
        for child in ast.iter_child_nodes(node):
            name = inside
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                name = f"{inside}.{child.name}".lstrip(".")
            if isinstance(child, ast.Call) and _last(child.func) in LAST:
                called = ast.unparse(child.func)
                owner, _, method = called.rpartition(".")
                if PARSING.fullmatch(called) or (method == "decode" and owner in decoders):
                    yield inside
            yield from walk(child, name)

    yield from walk(module, "")


if __name__ == "__main__":
    print("\n".join(sorted(sites())))
