"""Leaves out of py-libp2p 0.8.1 what it loads at once and we never use: mDNS, and certificates of AutoTLS.

It has no switch for that. They cost a fifth of the memory and a third of the time of `import libp2p`, which
count for a small process. While `libp2p` is being imported, and only then, the packages below are
placeholders whose use fails; `forget` takes these away afterwards. To go when py-libp2p imports them where
it needs them.
"""

import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

LEFT_OUT = frozenset({"httpx", "requests", "zeroconf"})


class _Missing(type):
    """Whatever is asked of it is missing, too."""

    def __getattr__(cls, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return cls


class _Unused(metaclass=_Missing):
    def __init__(self, *_arguments: object, **_named: object) -> None:
        raise RuntimeError("a part of py-libp2p was used that is left out (talkoot.dht.outside.lean)")


class _Placeholder(ModuleType):
    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Unused


class _Finder(MetaPathFinder, Loader):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname.partition(".")[0] not in LEFT_OUT or not _is_being_imported("libp2p"):
            return None
        return ModuleSpec(fullname, self, is_package=True)

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _Placeholder(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """There is nothing in it."""


def install() -> None:
    """From now on. Once."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


def forget() -> None:
    """Whoever imports one of them from now on gets the real one."""
    for name in [name for name, module in sys.modules.items() if isinstance(module, _Placeholder)]:
        del sys.modules[name]


def _is_being_imported(name: str) -> bool:
    module = sys.modules.get(name)
    return module is not None and bool(getattr(module.__spec__, "_initializing", False))
