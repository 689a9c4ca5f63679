"""The page of a real node in a headless Chromium: how fast it is there, how soon it shows that a peer died.

   nice python benchmarks/page.py [--peers 3] [--rounds 6] [--loads 20] [--preset numpy-test] [--pictures DIR]
   nice python benchmarks/page.py --alone [--loads 20]

Needs Debian's `chromium` and `playwright` (`pip install --group dev`). Daemons on loopback train; a fresh tab
of the same browser opens the page of the first one `--loads` times (milliseconds from the start of the
navigation to the load event, and until the first status is shown); then one peer is killed with SIGKILL and
the page is watched. `--pictures` keeps the page in light, in dark and on a phone, in that state. `--alone`:
the page of a node that does nothing, without a swarm, which shows what loading alone takes.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from page_rig import PageNode, Tab, chromium, missing, served
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

FIRST_SHOWN = """
new MutationObserver((_, observer) => {
  const link = document.getElementById("link");
  if (link && link.textContent !== "connecting") {
    window.shownAt = performance.now();
    observer.disconnect();
  }
}).observe(document, { subtree: true, childList: true, characterData: true });
"""


def manifest_of(preset: str, *, peers: int) -> Manifest:
    """The swarm that is watched; the numpy model leaves the machine some time."""
    manifest = presets.make(preset, name="talkoot-demo")
    config = {"step_ms": 5.0} if preset == "numpy-test" else manifest.model.config
    return replace(
        manifest,
        swarm=replace(manifest.swarm, start_peers=peers),
        model=replace(manifest.model, config=config),
    )


def loads(browser: Any, address: str, count: int) -> tuple[list[float], list[float]]:
    """Milliseconds to the load event, and to the first status, of so many loads."""
    loaded, shown = [], []
    for _ in range(count):
        tab = Tab(browser, address, script=FIRST_SHOWN)
        tab.until(f"{LOADED} > 0")
        loaded.append(float(tab.page.evaluate(LOADED)))
        shown.append(float(tab.page.evaluate("window.shownAt")))
        tab.close()
    return loaded, shown


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


def say_loads(loaded: list[float], shown: list[float]) -> None:
    """Print milliseconds of all loads."""
    for name, values in (("load event", loaded), ("first status shown", shown)):
        print(f"{name}: median {median(values):.0f} ms, {min(values):.0f} to {max(values):.0f}")
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
    options = parser.parse_args()
    if missing():
        sys.exit(missing())
    if options.alone:
        with served(PageNode()) as address, chromium() as browser:
            say_loads(*loads(browser, address, options.loads))
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
            loaded, shown = loads(browser, address, options.loads)
            tab = Tab(browser, address)
            died = death(tab, swarm)
            if options.pictures is not None:
                number = swarm.round_of(founder)
                until(lambda: swarm.round_of(founder) >= number + 2, "a round without it", swarm.peers)
                pictures(browser, address, options.pictures, sample=options.preset != "numpy-test")
            shift = tab.shift()
            tab.close()
    say_loads(loaded, shown)
    print(f"a killed peer is shown after {died:.2f} s; layout shift {shift:.4f}")
    print(json.dumps({"load_ms": median(loaded), "shown_ms": median(shown), "death_s": died}))


if __name__ == "__main__":
    main()
