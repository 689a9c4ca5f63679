"""The demo's loss curve as an SVG file."""

from pathlib import Path

from talkoot.cli.text_plot import Points


def save_svg(path: Path, swarm: Points, single: Points, *, title: str) -> None:
    """Write both curves of (step, loss) as SVG. Raises OSError."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot()
    axes.plot(*_columns(swarm), marker="o", markersize=3, label="swarm (outer parameters)")
    if single:
        axes.plot(*_columns(single), linestyle="--", marker="x", label="single worker, same steps")
    axes.set_xlabel("inner steps of a peer")
    axes.set_ylabel("held-out loss (nats per token)")
    axes.set_title(title)
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, format="svg")


def _columns(points: Points) -> tuple[list[float], list[float]]:
    return [x for x, _ in points], [y for _, y in points]
