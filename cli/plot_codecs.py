"""Distortion over bits: where codecs lie above the Shannon limit, as SVG."""

import io
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from talkoot.compression.limits import MAX_LEVELS, best_scalar, lloyd_max, shannon

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.text import Annotation
    from matplotlib.transforms import BboxBase

Row = dict[str, Any]

MARKERS = {"gaussian": "o", "laplace": "^", "student_t4": "s", "recorded": "*"}

PLACES = [(8, 0)] + [(12, dy) for step in range(1, 20) for dy in (4 * step, -4 * step)]
"""Where a label may stand, in points from its marker: beside it, else higher or lower, with a line to it."""


def distortion_svg(rows: Sequence[Row]) -> bytes:
    """The picture; codecs without error are left out, since the axis is logarithmic."""
    figure, _ = draw([row for row in rows if row["nmse"] > 0])
    out = io.BytesIO()
    figure.savefig(out, format="svg", metadata={"Date": None})
    return out.getvalue()


def draw(rows: Sequence[Row]) -> "tuple[Figure, list[Annotation]]":
    """The figure and its labels, which do not overlap."""
    import matplotlib
    from matplotlib.figure import Figure

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "talkoot"  # the same bytes for the same figures
    figure = Figure(figsize=(10, 7), layout="constrained")
    axes = figure.add_subplot()
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    _draw_limits(axes, [row["bits_per_param"] for row in rows])
    _draw_points(axes, rows)
    axes.set_ylim(min([row["nmse"] for row in rows], default=1e-6) / 10, 5)
    axes.set_xlabel("bits a parameter")
    axes.set_ylabel("squared error over energy (NMSE)")
    axes.xaxis.set_major_formatter(lambda x, _: f"{x:g}")
    axes.set_title("Distortion of codecs")
    axes.grid(alpha=0.3)
    axes.legend(loc="lower left", fontsize=9)
    return figure, _label(figure, axes, rows)


def _draw_limits(axes: "Axes", bits: Sequence[float]) -> None:
    low, high = 0.8 * min(bits, default=1.0), 2.5 * max(bits, default=8.0)  # room for names on the right
    span = [low * (high / low) ** (i / 200) for i in range(201)]
    axes.plot(span, [shannon(x) for x in span], color="black", label="Shannon limit of a Gaussian")
    axes.plot(span, [best_scalar(x) for x in span], color="gray", linewidth=0.8, linestyle="--")
    whole = [b for b in range(1, int(math.log2(MAX_LEVELS)) + 1) if low <= b <= high]
    errors = [lloyd_max(2**b) for b in whole]
    label = "best scalar quantiser of a Gaussian (Lloyd-Max)"
    axes.plot(whole, errors, color="gray", marker="_", markersize=12, linestyle="", label=label)
    axes.set_xlim(low, high)


def _draw_points(axes: "Axes", rows: Sequence[Row]) -> None:
    for who, color in (("talkoot", "tab:blue"), ("hivemind", "tab:orange")):
        for kind, marker in MARKERS.items():
            chosen = [row for row in rows if row["distribution"] == kind and _maker(row) == who]
            if chosen:
                filled = kind == "gaussian"
                axes.plot(
                    [row["bits_per_param"] for row in chosen],
                    [row["nmse"] for row in chosen],
                    linestyle="",
                    marker=marker,
                    markersize=7 if filled else 5,
                    color=color,
                    markerfacecolor=color if filled else "none",
                    label=f"{who}, {kind.replace('_t4', ' t(4)')}",
                )


def _maker(row: Row) -> str:
    return "hivemind" if str(row["codec"]).startswith("hivemind:") else "talkoot"


def _label(figure: "Figure", axes: "Axes", rows: Sequence[Row]) -> "list[Annotation]":
    """Write each codec's name beside its Gaussian point, where no other label and no point is."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.text import Text

    renderer = FigureCanvasAgg(figure).get_renderer()  # type: ignore[no-untyped-call]  # matplotlib's
    figure.draw_without_rendering()  # fixes the layout, so that places in pixels hold
    points = [axes.transData.transform((row["bits_per_param"], row["nmse"])) for row in rows]
    taken: list[BboxBase] = []
    labels = []
    for row in sorted(rows, key=lambda row: -float(row["nmse"])):
        if row["distribution"] != "gaussian":
            continue
        for place in PLACES:
            label = axes.annotate(
                row["codec"],
                (row["bits_per_param"], row["nmse"]),
                xytext=place,
                textcoords="offset points",
                fontsize=8,
                va="center",
                bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.7, "pad": 0.5},
                arrowprops={"arrowstyle": "-", "linewidth": 0.4} if place[1] else None,
            )
            label.update_positions(renderer)
            box = Text.get_window_extent(label, renderer).padded(1)  # an Annotation's own has the line in it
            free = not any(box.overlaps(other) for other in taken)
            if free and not any(box.contains(x, y) for x, y in points):
                taken.append(box)
                labels.append(label)
                break
            label.remove()
    return labels
