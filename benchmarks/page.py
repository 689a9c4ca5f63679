"""The page of a real node in a headless Chromium: how fast it is there, how soon it shows that a peer died.

   nice python benchmarks/page.py [--peers 3] [--rounds 6] [--loads 20] [--preset numpy-test] [--pictures DIR]
   nice python benchmarks/page.py --alone [--against CHECKOUT] [--loads 20]

Needs Debian's `chromium` and `playwright` (`pip install --group dev`). Each load is one in a fresh tab of
the same browser, with nothing in a cache: milliseconds from the start of the navigation until the browser's
`load` event (all that the page waits for is here, styled and laid out), and until the figures of the node are
in it. `an empty answer` is `/healthz` in the same browser, which is what any page costs on this machine.

Without `--alone`, daemons on loopback train beside it; after the loads one peer is killed with SIGKILL and
the page is watched. `--pictures` keeps the page in light, in dark and on a phone, in that state. `--alone`: a
process with the local API of a node that does nothing. `--against`: another checkout of this repository,
whose page is loaded in turns with this one, in random order, and the ratio of the medians.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from page_rig import Tab, chromium, missing
from PIL import Image
from swarm_help import Daemons, daemons, until

from talkoot.peer import presets
from talkoot.peer.manifest import Manifest
from talkoot.peer.sampling import PAUSE_S

LOADED = "performance.getEntriesByType('navigation')[0].loadEventEnd"
WIDE = {"viewport": {"width": 1280, "height": 1000}}
PICTURES: dict[str, dict[str, Any]] = {
    "page-light": {**WIDE, "color_scheme": "light"},
    "page-dark": {**WIDE, "color_scheme": "dark"},
    "page-phone": {"viewport": {"width": 390, "height": 844}, "color_scheme": "light"},
}
COLOURS = 64
"""Of a picture: what a page has, and a third of the bytes."""

PROMPT = "Once upon a time"

FIGURES_SHOWN = """
new MutationObserver((_, observer) => {
  const figure = document.querySelector("[data-key=uptime_s]");
  if (figure && figure.value) {
    window.shownAt = performance.now();
    observer.disconnect();
  }
}).observe(document, { subtree: true, childList: true, characterData: true });
"""

SERVE = """
import sys
from page_rig import PageNode, served
with served(PageNode()) as address:
    print(address, flush=True)
    sys.stdin.read()
"""

EMPTY = "an empty answer"


@dataclass
class Loads:
    """Milliseconds of the loads of one page."""

    loaded: list[float] = field(default_factory=list)
    shown: list[float] = field(default_factory=list)

    def say(self, name: str) -> None:
        """Print them."""
        for what, values in (("load event", self.loaded), ("figures shown", self.shown)):
            if values:
                spread = f"{min(values):.0f} to {max(values):.0f}"
                print(f"{name}, {what}: median {median(values):.0f} ms, {spread}, {len(values)} loads")


def manifest_of(preset: str, *, peers: int) -> Manifest:
    """The swarm that is watched; the numpy model leaves the machine some time."""
    manifest = presets.make(preset, name="talkoot-demo")
    config = {"step_ms": 5.0} if preset == "numpy-test" else manifest.model.config
    return replace(
        manifest,
        swarm=replace(manifest.swarm, start_peers=peers),
        model=replace(manifest.model, config=config),
    )


def loads(browser: Any, addresses: dict[str, str], count: int) -> dict[str, Loads]:
    """So many loads of each page by its name, and of an empty answer, in rounds of random order."""
    found = {name: Loads() for name in (*addresses, EMPTY)}
    order, rng = list(found), random.Random(0)
    for _ in range(count):
        rng.shuffle(order)
        for name in order:
            if name == EMPTY:
                found[name].loaded.append(empty(browser, next(iter(addresses.values()))))
                continue
            tab = Tab(browser, addresses[name], script=FIGURES_SHOWN)
            tab.until(f"{LOADED} > 0")
            found[name].loaded.append(float(tab.page.evaluate(LOADED)))
            found[name].shown.append(float(tab.page.evaluate("window.shownAt")))
            tab.close()
    return found


def empty(browser: Any, address: str) -> float:
    """Milliseconds to the load event of an answer of a few bytes."""
    context = browser.new_context(**WIDE)
    page = context.new_page()
    page.goto(f"{address}healthz")
    while not (loaded := float(page.evaluate(LOADED))):
        page.wait_for_timeout(5)
    context.close()
    return loaded


@contextmanager
def site(checkout: Path) -> Iterator[str]:
    """The address of a page served by a process of its own, with the code of a checkout."""
    with tempfile.TemporaryDirectory() as name:
        packages = Path(name) / "talkoot"
        packages.mkdir()
        for package in ("peer", "dht", "averaging", "compression", "cli"):
            (packages / package).symlink_to(checkout.resolve() / package)
        path = os.pathsep.join((name, str(checkout.resolve() / "tests")))
        process = subprocess.Popen(
            [sys.executable, "-c", SERVE],
            env={**os.environ, "PYTHONPATH": path},
            cwd=name,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.stdin.close()
            process.wait()


def death(tab: Tab, swarm: Daemons) -> float:
    """Seconds from SIGKILL to one peer until the page shows that it is gone."""
    victim = swarm.peers[-1]
    peer = swarm.status(victim)["peer_id"]
    row = f"document.querySelector('[data-peer=\"{peer}\"]')"
    tab.until(f"{row} && !{row}.textContent.includes('not connected')")
    killed = time.monotonic()
    victim.kill()
    tab.until(f"!{row} || {row}.textContent.includes('not connected')")
    return time.monotonic() - killed


def pictures(browser: Any, address: str, folder: Path, *, sample: bool) -> None:
    """Keep the page as people see it."""
    folder.mkdir(parents=True, exist_ok=True)
    tabs = {name: Tab(browser, address, **options) for name, options in PICTURES.items()}
    for number, (name, tab) in enumerate(tabs.items()):
        if sample:
            if number:
                time.sleep(PAUSE_S)  # so long the node makes no other sample
            tab.page.fill("#prompt", PROMPT)
            tab.page.click("#ask")
            tab.until("document.querySelector('#text .sample')")
        tab.page.evaluate("window.scrollTo(0, 0)")
        file = folder / f"{name}.png"
        tab.page.screenshot(path=str(file), full_page=name != "page-phone")
        with Image.open(file) as picture:
            small = picture.convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE)
        small.save(file, optimize=True)
        tab.close()


def alone(options: argparse.Namespace) -> None:
    """Load and print."""
    with ExitStack() as stack:
        addresses = {"this page": stack.enter_context(site(Path(__file__).parent.parent))}
        if options.against is not None:
            addresses["the other"] = stack.enter_context(site(options.against))
        found = loads(stack.enter_context(chromium()), addresses, options.loads)
    for name, each in found.items():
        each.say(name)
    if other := found.get("the other"):
        this = found["this page"]
        loaded = median(this.loaded) / median(other.loaded)
        shown = median(this.shown) / median(other.shown)
        print(f"this page against the other: load event {loaded:.2f}, figures shown {shown:.2f}")
    say_load_average()


def say_load_average() -> None:
    """How busy the machine is."""
    print("load average " + ", ".join(f"{load:.1f}" for load in os.getloadavg()))


def main() -> None:
    """Run it and print what was measured."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--peers", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--loads", type=int, default=20)
    parser.add_argument("--preset", default="numpy-test")
    parser.add_argument("--pictures", type=Path)
    parser.add_argument("--alone", action="store_true")
    parser.add_argument("--against", type=Path)
    options = parser.parse_args()
    if missing():
        sys.exit(missing())
    if options.alone:
        alone(options)
        return
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder, daemons(Path(folder)) as swarm:
        swarm.found(manifest_of(options.preset, peers=options.peers))
        for _ in range(options.peers - 1):
            swarm.join()
        swarm.counted(*swarm.peers, since=0)
        print("all train", file=sys.stderr)
        founder = swarm.peers[0]
        until(lambda: swarm.round_of(founder) >= options.rounds, "rounds", swarm.peers)
        address = f"http://127.0.0.1:{swarm.status(founder)['http_port']}/"
        with chromium() as browser:
            found = loads(browser, {"this page": address}, options.loads)
            tab = Tab(browser, address)
            died = death(tab, swarm)
            if options.pictures is not None:
                number = swarm.round_of(founder)
                until(lambda: swarm.round_of(founder) >= number + 2, "a round without it", swarm.peers)
                pictures(browser, address, options.pictures, sample=options.preset != "numpy-test")
            shift = tab.shift()
            tab.close()
    for name, each in found.items():
        each.say(name)
    say_load_average()
    print(f"a killed peer is shown after {died:.2f} s; layout shift {shift:.4f}")
    page = found["this page"]
    print(json.dumps({"load_ms": median(page.loaded), "shown_ms": median(page.shown), "death_s": died}))


if __name__ == "__main__":
    main()
