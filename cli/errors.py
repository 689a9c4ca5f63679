"""How commands fail: one line on stderr and one of the exit codes that scripts rely on.

1: it failed; 2: wrong usage or configuration (`ConfigError`); 3: no daemon is running.
"""

import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager

FAILED = 1
WRONG_USE = 2
NO_DAEMON = 3


class CommandError(Exception):
    """It failed for a reason that one line can say. Exit code 1."""


class NoDaemonError(Exception):
    """No daemon is running on the state directory. Exit code 3."""


def one_line(error: BaseException) -> str:
    """The error in one line, with the file where it has one."""
    if isinstance(error, OSError) and error.strerror:
        words = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    else:
        words = str(error) or type(error).__name__
    return re.sub(r"\s*\n\s*", "; ", words.strip())


def keep_standard_streams() -> None:
    """Open what `>&- 2>&-` has closed: otherwise a socket gets number 1 or 2, and children write into it."""
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number, which is this one
    if sys.stdout is None:
        sys.stdout = os.fdopen(1, "w", closefd=False)
    if sys.stderr is None:
        sys.stderr = os.fdopen(2, "w", closefd=False)


@contextmanager
def no_traceback_on_broken_pipe() -> Iterator[None]:
    """`talkoot status | head` ends quietly: later writes go nowhere instead of failing at exit."""
    try:
        yield
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        raise
