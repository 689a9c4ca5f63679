"""Nothing is ever unpickled: an audit hook that ends it, in the tests' process and in all that they start.

What pickles name is imported and called, so who unpickles what a peer sent runs that peer's code. Watched are
`pickle.find_class`, the audit event of CPython for each name in a pickle, and files that `torch.load` opens
(its own unpickler has no event). A process may still unpickle what it wrote itself: `multiprocessing` does
so, and caches of compilers and test tools.
"""

import os
import sys
from types import FrameType

REPORT = "TALKOOT_UNPICKLED"
"""Environment variable with the path of the file in which every process notes what it ended."""

UNPICKLERS = frozenset({"pickle", "_pickle", "_compat_pickle", "copyreg"})
"""Modules that do it for others; who called them counts."""

OWN_DATA = frozenset({"multiprocessing", "concurrent", "torch", "hypothesis", "_pytest", "logging"})
"""Packages that unpickle only what a process of this machine wrote; no bytes of a peer come near them."""

NEVER = ("torch.serialization", "torch._weights_only_unpickler", "torch.package", "torch.distributed")
"""Parts of those packages that read what others wrote."""

tripped: list[str] = []
"""What was ended in this process."""


class UnpickledError(Exception):
    """Something was about to be unpickled, or `torch.load` was called."""


def watch() -> None:
    """Install the hook, for the rest of the process."""
    sys.addaudithook(_hook)


def _hook(event: str, arguments: tuple[object, ...]) -> None:
    if event == "pickle.find_class":
        who = unpickler(sys._getframe().f_back)
        if who is not None:
            end(f"{who} unpickles {arguments[0]}.{arguments[1]}")
    elif event == "open" and arguments[1] in ("r", "rb") and _loads(sys._getframe().f_back):
        end(f"torch.load of {arguments[0]!r}")


def end(what: str) -> None:
    """Note it, also where nobody sees the error, and raise UnpickledError."""
    tripped.append(what)
    if path := os.environ.get(REPORT):
        with open(path, "a", encoding="utf-8") as file:
            file.write(what + "\n")
    raise UnpickledError(what)


def unpickler(frame: FrameType | None) -> str | None:
    """The module that unpickles where it must not, seen from inside the unpickler; None where it may."""
    while frame is not None and _module(frame) in UNPICKLERS:
        frame = frame.f_back
    if frame is None:
        return None
    who = _module(frame)
    if _is(who, "talkoot") or any(_is(who, name) for name in NEVER):
        return who
    if who.partition(".")[0] in OWN_DATA:
        return None
    caller = frame.f_back
    while caller is not None:
        if _is(_module(caller), "talkoot"):
            return f"{who}, for {_module(caller)},"
        caller = caller.f_back
    return None


def _loads(frame: FrameType | None) -> bool:
    """Whether one of the nearest callers is `torch.load`."""
    for _ in range(4):
        if frame is None:
            return False
        if frame.f_code.co_name == "load" and _module(frame) == "torch.serialization":
            return True
        frame = frame.f_back
    return False


def _module(frame: FrameType) -> str:
    """Name of the module that a frame belongs to, also when that is the program that was started."""
    spec = frame.f_globals.get("__spec__")
    name = frame.f_globals.get("__name__", "")
    return str(spec.name if name == "__main__" and spec is not None else name)


def _is(module: str, package: str) -> bool:
    return module == package or module.startswith(package + ".")
