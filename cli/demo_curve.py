"""The demo's loss curve for the terminal and as a file."""

from pathlib import Path

from talkoot.cli.demo_report import Report
from talkoot.cli.text_plot import Points, text_plot


def points(report: Report) -> tuple[Points, Points]:
    """(step, loss) of the swarm, from the initial weights on, and of the single worker."""
    swarm = [(float(p["step"] or 0), float(p["loss"])) for p in report.curve]
    if report.loss_start is not None:
        swarm.insert(0, (0.0, report.loss_start))
    return swarm, report.curve_single


def curves(report: Report) -> str:
    """The curve as text."""
    swarm, single = points(report)
    lines = [("held-out loss of the swarm over inner steps of a peer", swarm, True)]
    if single:
        lines.append(("single worker", single, False))
    return text_plot(lines)


def save_curve(report: Report, path: Path) -> None:
    """The curve as SVG. Raises OSError."""
    from talkoot.cli.plot import save_svg

    title = f"{report.peers} peers, {report.rounds_committed} rounds"
    save_svg(path, *points(report), title=title)
