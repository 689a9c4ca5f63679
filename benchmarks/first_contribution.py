"""From nothing to the first counted contribution, on a LAN of two network namespaces.

    python benchmarks/first_contribution.py [--preset tiny] [--complete] [--json FILE]

A founder trains already; the wheel and an invite are at hand. Timed is what a volunteer does, as in
docs/install.md: install the wheel into an environment of its own, `talkoot doctor INVITE`, `talkoot run
--join INVITE`, until a final round counts that peer. The environment is lent this one's dependencies, which
would otherwise be a download; --complete fetches them, too, as pip does. Needs root and iproute2.
"""

import argparse
import json
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from talkoot.cli.demo_chaos_network import Cables, why_not
from talkoot.cli.demo_node import TALKOOT, DemoNode, stop_all
from talkoot.peer import manifest_file, presets

ROOT = Path(__file__).parent.parent
SOURCES = ("pyproject.toml", "setup.py", "README.md", "LICENSE")
PACKAGES = ("averaging", "cli", "compression", "dht", "peer")
LIMIT_S = 600.0
POLL_S = 0.2


def wheel(folder: Path) -> Path:
    """A wheel of this repository."""
    for name in (*SOURCES, *PACKAGES):
        subprocess.run(["cp", "-r", ROOT / name, folder], check=True)
    build = ["wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", "dist", "."]
    subprocess.run([sys.executable, "-m", "pip", *build], cwd=folder, check=True, capture_output=True)
    (made,) = (folder / "dist").iterdir()
    return made


def install(made: Path, folder: Path, *, complete: bool) -> Path:
    """The command, in an environment of its own."""
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    if not complete:
        own = sysconfig.get_path("purelib", vars={"base": str(folder)})
        Path(own, "lent.pth").write_text(sysconfig.get_path("purelib") + "\n")
    order = [str(folder / "bin" / "pip"), "install", "--quiet", str(made)]
    order += [] if complete else ["--no-deps"]
    subprocess.run(order, check=True)
    return folder / "bin" / "talkoot"


class Watch:
    """Seconds of each step, one after the other."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Time one."""
        began = time.monotonic()
        yield
        self.seconds[name] = round(time.monotonic() - began, 1)
        print(f"{name:8} {self.seconds[name]:6.1f} s", flush=True)


def until(nodes: list[DemoNode], done: object) -> None:
    """Look until `done()`; exits with the last words of whom it waits for."""
    assert callable(done)
    deadline = time.monotonic() + LIMIT_S
    while not done():
        if time.monotonic() > deadline or not all(node.running for node in nodes):
            sys.exit("; ".join(f"{node.name}: {node.last_words()}" for node in nodes))
        time.sleep(POLL_S)  # other processes, which say when asked only


def counted(founder: DemoNode, peer: str) -> bool:
    """Whether a final round counted the peer."""
    return any(peer in entry["counted"] and entry["kind"] == "final" for entry in founder.rounds() or ())


def measure(
    options: argparse.Namespace, folder: Path, cables: Cables, nodes: list[DemoNode]
) -> dict[str, float]:
    """Seconds of each step."""
    draft = folder / manifest_file.FILE_NAME
    manifest_file.save(presets.make(options.preset, name="first"), draft)
    (folder / "source").mkdir()
    made = wheel(folder / "source")
    founder = DemoNode("founder", folder, TALKOOT, cables.place(0))
    nodes.append(founder)
    founder.start([str(draft), *cables.place(0).arguments, "--threads", "1"])
    until(nodes, lambda: ((founder.poll() or {}).get("round") or 0) > 0)
    until(nodes, lambda: founder.invite() is not None)
    invite = founder.invite()
    assert invite is not None

    watch, place = Watch(), cables.place(1)
    with watch.step("install"):
        command = install(made, folder / "environment", complete=options.complete)
    with watch.step("doctor"):
        ask = [*place.prefix, str(command), "doctor", invite, "--state-dir", str(folder / "volunteer")]
        subprocess.run([*ask, *place.arguments], check=False, stdout=subprocess.DEVNULL)
    volunteer = DemoNode("volunteer", folder, (str(command),), place)
    nodes.append(volunteer)
    with watch.step("run"):
        volunteer.start(["--join", invite, *place.arguments, "--threads", "1"])
        until(nodes, lambda: volunteer.poll() is not None)
        peer = str((volunteer.status or {})["peer_id"])
        until(nodes, lambda: counted(founder, peer))
    return watch.seconds


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--preset", choices=(*presets.PRESETS, "numpy-test"), default="tiny")
    parser.add_argument("--complete", action="store_true", help="fetch and install the dependencies, too")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if problem := why_not():
        sys.exit(problem)
    nodes: list[DemoNode] = []
    with tempfile.TemporaryDirectory(prefix="t-", dir="/tmp") as name, Cables(2) as cables:
        try:
            seconds = measure(options, Path(name), cables, nodes)
        finally:
            stop_all(nodes)
    total = sum(seconds.values())
    print(
        f"3 commands, {total:.1f} s to the first counted contribution; without the doctor "
        f"{total - seconds['doctor']:.1f} s"
    )
    if options.json:
        options.json.write_text(json.dumps(seconds | {"total": total}))


if __name__ == "__main__":
    main()
