"""How programs are called, and which this computer has."""

import os
import shutil
from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path

from talkoot.dht.errors import ConfigError

MAX_NAME_CHARS = 255

MAX_PROGRAMS = 200


def plain(name: str) -> str:
    """A program's name without folders (also Windows'), `.exe` and capitals."""
    return name.replace("\\", "/").rstrip("/").rpartition("/")[2].casefold().removesuffix(".exe")


def check_programs(programs: Iterable[str]) -> None:
    """Raises ConfigError for what cannot be the name of a program."""
    programs = tuple(programs)
    if len(programs) > MAX_PROGRAMS:
        raise ConfigError(f"programs has {len(programs)} names, at most {MAX_PROGRAMS}")
    for program in programs:
        if not plain(program) or len(program) > MAX_NAME_CHARS or not program.isprintable():
            raise ConfigError(
                f"programs has {program[:MAX_NAME_CHARS]!r}: give a name of a program, such as 'blender'"
            )


def require_known(programs: Iterable[str], running: Iterable[str]) -> None:
    """Raises ConfigError for a program that this computer does not have; a guess at what was meant with it.

    Known is what is among the names `running`, or lies on the path. Only when somebody
    names one: a program that was removed later is no reason to refuse to start.
    """
    running = frozenset(running)
    for program in programs:
        if plain(program) in running or shutil.which(program):
            continue
        near = get_close_matches(plain(program), running | _on_path(), n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise ConfigError(
            f"yield.programs: no program {program!r} is installed or running here: {hint}"
            "--anyway takes it all the same"
        )


def _on_path() -> set[str]:
    names: set[str] = set()
    for folder in os.get_exec_path():
        try:
            names.update(entry.name.casefold() for entry in Path(folder).iterdir())
        except OSError:
            continue
    return names
