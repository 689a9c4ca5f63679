"""The words and the picture of `talkoot bench codec`."""

import json as json_module
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import typer

from talkoot.cli.errors import CommandError
from talkoot.dht.errors import ConfigError

Row = dict[str, Any]

LEGEND = """\
gaussian to recorded: NMSE, squared error over energy; recorded is a pseudo-gradient, repeated.
limit, scalar: the Gaussian NMSE over the Shannon limit 2^(-2 bits), and over the best scalar quantiser
of fixed rate (Lloyd-Max; time sharing of two where 2^bits is no whole number).
encode, decode: MB of fp32 in a second of one core's time, Gaussian. mem: peak of memory beyond input
and result, of the direction that takes more, in % of the fp32 vector."""


def run(*, numel: int, chosen: Sequence[str], recorded: Path | None, svg: Path | None, json: bool) -> None:
    """Measure, print, draw. Raises ConfigError, CommandError."""
    from talkoot.peer import bench_codec

    bench_codec.check(numel, chosen, recorded)
    if svg is not None:
        with _writing(svg), svg.open("ab"):
            pass  # found out now rather than after minutes
    rows = []
    try:
        for row in bench_codec.measure(numel, list(dict.fromkeys(chosen)) or bench_codec.names(), recorded):
            rows.append(row)
            _progress(f"{row['distribution']} {row['codec']}")
    except bench_codec.WorkerError as error:
        raise CommandError(str(error)) from error
    _progress("")
    if svg is not None:
        from talkoot.cli.plot_codecs import distortion_svg

        with _writing(svg), svg.open("wb") as file:
            file.write(distortion_svg(rows))
    typer.echo(json_module.dumps(rows, indent=1) if json else table(rows))


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    """A file that cannot be written is wrong use. Raises ConfigError."""
    try:
        yield
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror or error}") from error


def _progress(words: str) -> None:
    if sys.stderr.isatty():
        sys.stderr.write(f"\r\x1b[K{words}")
        sys.stderr.flush()


def table(rows: Sequence[Row]) -> str:
    """A line a codec, at most 100 characters wide, then what top-k keeps, then the legend."""
    kinds = list(dict.fromkeys(row["distribution"] for row in rows))
    titles = "".join(f"{kind.replace('student_', ''):>10}" for kind in kinds)
    lines = [f"{'codec':18}{'bits':>8}{titles}{'limit':>7}{'scalar':>7}{'encode':>7}{'decode':>7}{'mem':>6}"]
    by_codec: dict[str, dict[str, Row]] = {}
    for row in rows:
        by_codec.setdefault(row["codec"], {})[row["distribution"]] = row
    kept = []
    for name, found in by_codec.items():
        first = next(iter(found.values()))
        errors = "".join(f"{_small(found[kind]['nmse']):>10}" for kind in kinds)
        lines.append(f"{name:18}{first['bits_per_param']:8.4f}{errors}{_rates(first)}")
        kept += [_kept(row) for row in found.values() if "value_error" in row]
    return "\n".join([*lines, *kept, "", LEGEND])


def _rates(row: Row) -> str:
    extra = max(row.get("encode_peak_extra", -1.0), row.get("decode_peak_extra", -1.0))
    limit, scalar = (_ratio(row[key]) if row["nmse"] else "-" for key in ("shannon_ratio", "scalar_ratio"))
    memory = f"{100 * extra:.1f}" if extra >= 0 else "-"
    return f"{limit:>7}{scalar:>7}{row['encode_mb_s']:7.0f}{row['decode_mb_s']:7.0f}{memory:>6}"


def _ratio(value: float) -> str:
    return f"{value:.2f}" if value < 100 else f"{value:.0f}"


def _kept(row: Row) -> str:
    return (
        f"{row['codec']} on {row['distribution']}: keeps {100 * row['kept_energy']:.1f} % of the energy, "
        f"with an error of {row['value_error']:.2e} of that"
    )


def _small(value: float) -> str:
    return f"{value:.2e}" if value else "0"
