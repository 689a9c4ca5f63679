"""Single keys of a terminal, while it shows something that is drawn again and again."""

import os
import select
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from types import FrameType

WaitForKey = Callable[[float], str]
"""(seconds) -> the key that was pressed within them, or an empty text."""

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextmanager
def keys() -> Iterator[WaitForKey]:
    """Take keys as they are pressed, without echo; the terminal is as before at the end, also after SIGTERM.

    Where standard input is no terminal there are no keys, and only the time passes. Waiting raises
    KeyboardInterrupt after a signal, also after one that came while nothing could be raised (a finalizer).
    """
    came: list[int] = []

    def interrupt(number: int, frame: FrameType | None) -> None:
        came.append(number)
        signal.default_int_handler(number, frame)

    def wait(seconds: float) -> str:
        if came:
            raise KeyboardInterrupt
        return take(seconds)

    take: WaitForKey = _no_keys
    signals = {number: signal.signal(number, interrupt) for number in ENDING}
    try:
        if not sys.stdin.isatty():
            yield wait
            return
        import termios
        import tty

        descriptor = sys.stdin.fileno()
        before = termios.tcgetattr(descriptor)
        try:
            tty.setcbreak(descriptor)
            take = partial(_key, descriptor)
            yield wait
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
