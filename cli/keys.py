"""Single keys of a terminal, while it shows something that is drawn again and again."""

import os
import select
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

WaitForKey = Callable[[float], str]
"""(seconds) -> the key that was pressed within them, or an empty text."""


@contextmanager
def keys() -> Iterator[WaitForKey]:
    """Take keys as they are pressed, without echo; the terminal is as before at the end, also after SIGTERM.

    Where standard input is no terminal there are no keys, and only the time passes.
    """
    signals = {
        number: signal.signal(number, signal.default_int_handler)
        for number in (signal.SIGTERM, signal.SIGHUP)
    }
    try:
        if not sys.stdin.isatty():
            yield _no_keys
            return
        import termios
        import tty

        descriptor = sys.stdin.fileno()
        before = termios.tcgetattr(descriptor)
        try:
            tty.setcbreak(descriptor)
            yield lambda seconds: _key(descriptor, seconds)
        finally:
            with suppress(termios.error):  # the terminal is gone
                termios.tcsetattr(descriptor, termios.TCSADRAIN, before)
    finally:
        for number, handler in signals.items():
            signal.signal(number, handler)


def _key(descriptor: int, seconds: float) -> str:
    """Raises EOFError where the terminal is gone."""
    if not select.select([descriptor], [], [], seconds)[0]:
        return ""
    try:
        pressed = os.read(descriptor, 16)
    except OSError as error:
        raise EOFError from error
    if not pressed:
        raise EOFError
    return pressed.decode("utf-8", "replace")


def _no_keys(seconds: float) -> str:
    select.select([], [], [], seconds)
    return ""
