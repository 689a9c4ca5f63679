"""Logs: for people on a terminal, one JSON object a line otherwise; without secrets, counted by level.

`configure` once, then everywhere `log = structlog.get_logger("talkoot.x")` and
`log.info("round committed", round=3)`: a fixed event in plain words, what varies in fields. Lines of other
libraries that use `logging` take the same way.
"""

import logging
import re
import shutil
import sys
import time
from collections.abc import Callable, MutableMapping
from typing import TextIO, cast

import msgspec
import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

HIDDEN = "[hidden]"

_SECRET_NAMES = re.compile(
    r"(^|[_-])(token|secret|seed|password|private|invite|authorization|cookie)([_-]|$)", re.IGNORECASE
)
_SECRET_TEXT = re.compile(r"talkoot://[^\s'\"]+", re.IGNORECASE)
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_SHOWN_BYTES = 6
MAX_TEXT_CHARS = 8192
"""A longer text loses its middle; the end of a traceback says what happened."""

MAX_RATE_LIMITED_EVENTS = 256

BAR_WIDTH = 24
"""Characters of a progress bar."""


def configure(
    stream: TextIO,
    *,
    verbose: bool = False,
    as_json: bool | None = None,
    count: Callable[[str], object] = lambda _level: None,
) -> None:
    """Send all logs to `stream`; JSON unless it is a terminal, or as `as_json` says.

    `count` is called with the level of every line that is written. May be called again.
    """
    as_json = not stream.isatty() if as_json is None else as_json
    handler = _Handler(stream)
    handler.setFormatter(_formatter([_counter(count), *_renderers(as_json, colors=stream.isatty())]))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.DEBUG if verbose else logging.INFO)
    logging.getLogger("aiohttp.server").addFilter(_not_a_bad_request)
    for chatty in ("asyncio", "aiohttp.access"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *_SHARED,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )


_SHARED: list[Processor] = [
    structlog.contextvars.merge_contextvars,
    structlog.stdlib.add_logger_name,
    structlog.stdlib.add_log_level,
    structlog.stdlib.PositionalArgumentsFormatter(),
    structlog.processors.StackInfoRenderer(),
]


def _formatter(processors: list[Processor]) -> logging.Formatter:
    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[*_SHARED, structlog.stdlib.ExtraAdder()],
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *processors],
    )


def json_formatter() -> logging.Formatter:
    """Writes what `configure` writes where it writes JSON, and counts nothing."""
    return _formatter(_renderers(True, colors=False))


class _Handler(logging.StreamHandler[TextIO]):
    """A line that cannot be written (a full disk, a reader that has gone) is lost, and nothing else is.

    On a terminal a line that says how far something is (`done_ratio`, 0 to 1) stays at the bottom as a bar,
    until the next line takes its place.
    """

    def __init__(self, stream: TextIO) -> None:
        super().__init__(stream)
        self._terminal = stream.isatty()
        self._drawn = False

    def emit(self, record: logging.LogRecord) -> None:
        """Write it. Called with the handler's lock held."""
        ratio: float | None = getattr(record, "done_ratio", None)
        try:
            if self._drawn:
                self.stream.write("\r\x1b[K")
            self._drawn = self._terminal and ratio is not None
            if self._drawn and ratio is not None:
                self.stream.write(_bar(ratio, record.getMessage()))
                self.flush()
                return
        except OSError:
            return
        super().emit(record)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        if not isinstance(sys.exception(), OSError):
            super().handleError(record)


def _bar(ratio: float, words: str) -> str:
    """What fits into one line of the terminal."""
    filled = int(BAR_WIDTH * min(1.0, max(0.0, ratio)))
    line = f"[{'#' * filled}{'.' * (BAR_WIDTH - filled)}] {words}"
    return line[: shutil.get_terminal_size().columns - 1]


def _not_a_bad_request(record: logging.LogRecord) -> bool:
    """False for what aiohttp logs, with a traceback, about bytes that are no HTTP: not our error."""
    kind = record.exc_info[0] if record.exc_info else None
    return kind is None or not kind.__module__.startswith("aiohttp.http")


def _renderers(as_json: bool, *, colors: bool) -> list[Processor]:
    # Tracebacks are plain text: the pretty ones show local variables, keys among them.
    if as_json:
        return [
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            hide_secrets,
            structlog.processors.EventRenamer("message"),
            structlog.processors.JSONRenderer(serializer=_json),
        ]
    console = structlog.dev.ConsoleRenderer(
        colors=colors, exception_formatter=structlog.dev.plain_traceback, pad_event_to=32
    )
    clock = structlog.processors.TimeStamper(fmt="%H:%M:%S", utc=False)
    return [clock, structlog.processors.format_exc_info, hide_secrets, _in_words, console]


def _in_words(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Lists and tables as people write them; JSON has them as they are."""
    return {name: value if name in _PLAIN else _words(value) for name, value in event.items()}


_PLAIN = ("event", "level", "logger", "timestamp", "exception", "stack")


def _words(value: object) -> object:
    match value:
        case {"peer_id": peer, "reason": reason}:
            return f"{peer} ({reason})"
        case dict():
            return ", ".join(f"{name} {_words(inner)}" for name, inner in value.items()) or "-"
        case list():
            return ", ".join(str(_words(inner)) for inner in value) or "-"
        case float():
            return f"{value:.3g}" if abs(value) < 100 else f"{value:.0f}"
        case None:
            return "-"
    return value


def _json(event: object, **_options: object) -> str:
    return msgspec.json.encode(event, enc_hook=str).decode()


def _counter(count: Callable[[str], object]) -> Processor:
    def counted(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
        count(str(event.get("level", "info")))
        return event

    return counted


def hide_secrets(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Replace fields with a secret's name and invite links anywhere; shorten raw bytes; bound texts."""
    return {name: HIDDEN if _SECRET_NAMES.search(name) else _shown(value) for name, value in event.items()}


def is_secret_name(name: str) -> bool:
    """Whether a field of this name holds a secret."""
    return _SECRET_NAMES.search(name) is not None


def _shown(value: object) -> object:
    match value:
        case str():
            text = _CONTROL.sub("?", _SECRET_TEXT.sub("talkoot://" + HIDDEN, value))
            half = MAX_TEXT_CHARS // 2
            return text if len(text) <= MAX_TEXT_CHARS else f"{text[:half]} [...] {text[-half:]}"
        case bytes() | bytearray() | memoryview():
            data = bytes(value[: _SHOWN_BYTES + 1])
            return data[:_SHOWN_BYTES].hex() + ("..." if len(data) > _SHOWN_BYTES else "")
        case dict():
            return {
                str(name): HIDDEN if _SECRET_NAMES.search(str(name)) else _shown(inner)
                for name, inner in value.items()
            }
        case list() | tuple() | set() | frozenset():
            return [_shown(inner) for inner in value]
        case None | bool() | int() | float():
            return value
        case _:
            return _shown(str(value))


class RateLimited:
    """Logs a line at most once in `interval_s` for each event; says how many were left out."""

    def __init__(
        self,
        log: structlog.stdlib.BoundLogger,
        *,
        interval_s: float = 30.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._log = log
        self._interval_s = interval_s
        self._clock = clock
        self._last: dict[str, tuple[float, int]] = {}

    def info(self, event: str, **fields: object) -> None:
        """As the logger's own."""
        self._write(self._log.info, event, fields)

    def warning(self, event: str, **fields: object) -> None:
        """As the logger's own."""
        self._write(self._log.warning, event, fields)

    def error(self, event: str, **fields: object) -> None:
        """As the logger's own."""
        self._write(self._log.error, event, fields)

    def _write(self, write: Callable[..., object], event: str, fields: MutableMapping[str, object]) -> None:
        now = self._clock()
        written_at, left_out = self._last.get(event, (None, 0))
        if written_at is not None and now < written_at + self._interval_s:
            self._last[event] = (written_at, left_out + 1)
            return
        if written_at is None and len(self._last) >= MAX_RATE_LIMITED_EVENTS:
            del self._last[next(iter(self._last))]
        self._last[event] = (now, 0)
        if left_out:
            fields["left_out"] = left_out
        write(event, **fields)


def get(name: str) -> structlog.stdlib.BoundLogger:
    """The logger of a module, called `talkoot.<package>` or so."""
    return cast(structlog.stdlib.BoundLogger, structlog.get_logger(name))
