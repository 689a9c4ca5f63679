"""The page in a real Chromium: a node that does as it is told, served by the real API, and a browser."""

import asyncio
import hashlib
import math
import os
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import base58
import pytest

from talkoot.peer.answering import MAX_LAST
from talkoot.peer.api import ApiServer, BanOrder
from talkoot.peer.credit import Board
from talkoot.peer.guest.orders import PauseOrder
from talkoot.peer.leaderboard import board_as_json
from talkoot.peer.metrics import Metrics
from talkoot.peer.observing.observer import UnknownPeer
from talkoot.peer.sampling import Sample, SampleOrder

CHROMIUM = Path(os.environ.get("TALKOOT_CHROMIUM", "/usr/bin/chromium"))
TOKEN = "t" * 43
PATIENCE_S = 30.0


def peer_id(number: int) -> str:
    """A PeerID as they look."""
    return base58.b58encode(b"\x00\x24\x08\x01\x12\x20" + hashlib.sha256(b"%d" % number).digest()).decode()


def a_peer(number: int, **changes: object) -> dict[str, Any]:
    """An entry of `peers` in a status."""
    return {
        "peer_id": peer_id(number),
        "role": "contributor",
        "round": 128,
        "steps": 40 + number,
        "speed": 3.1 + (number * 37 % 11) / 4,
        "loss": 2.31 + (number * 13 % 7) / 100,
        "state": "training",
        "version": "talkoot/0.1.0",
        "connected": True,
        "path": "direct",
        "age_s": 1.0 + number % 5,
        **changes,
    }


def a_round(number: int, **changes: object) -> dict[str, Any]:
    """An entry of `rounds`: one of a swarm whose loss falls."""
    wave = (number * 617 % 101) / 101
    form, exchange, certify = 0.6 + 0.4 * wave, 6 + 3 * wave, 0.9 + 0.5 * wave
    late = [{"peer_id": peer_id(number % 7), "reason": "too slow"}] if number % 4 == 1 else []
    return {
        "round": number,
        "digest": f"{number:064x}",
        "kind": "final",
        "attempt": 0,
        "leader": peer_id(number % 8),
        "counted": [peer_id(i) for i in range(9 - len(late))],
        "left_out": late,
        "own": number % 17 != 3,
        "seconds": round(form + exchange + certify + 0.7, 3),
        "phases": {"form": form, "exchange": exchange, "certify": certify},
        "deadlines": {},
        "jobs": {},
        "failures": [],
        "codec": "int8",
        "aggregate_codec": "int8",
        "codec_error": 0.01,
        "global_step": 60 * number,
        "tokens": 4_200_000 * number + int(8e5 * math.sin(number / 9)),
        "ended_at_s": 180.0 * number + 12 * wave,
        "bytes_sent": 26_000_000,
        "catch_up": None,
        "loss": 2.25 + 3.1 * math.exp(-number / 30) + 0.06 * wave,
        "eval_loss": 2.28 + 3.1 * math.exp(-number / 31) + 0.015 * wave,
        **changes,
    }


def a_status(**changes: object) -> dict[str, Any]:
    """The status of a node in the midst of a swarm."""
    return {
        "version": "0.1.0",
        "peer_id": peer_id(0),
        "swarm_name": "talkoot-small",
        "role": "contributor",
        "state": "training",
        "reason": "",
        "proven": None,
        "disk": None,
        "uptime_s": 23_400.5,
        "memory_bytes": 412_000_000,
        "warning": None,
        "sync": None,
        "round": 128,
        "frontier": 128,
        "voters": 7,
        "voting": True,
        "codec": "int8",
        "reachability": "public",
        "steps_total": 7_680,
        "tokens_total": 62_914_560,
        "steps_per_second": 4.37,
        "round_steps": 41,
        "loss": 2.3142,
        "eval_loss": 2.3307,
        "inner_share": 0.9534,
        "device": "cuda",
        "trainer_memory_bytes": 9_663_676_416,
        "residual_norm": 0.418,
        "gpus": [
            {
                "index": 0,
                "used_bytes": 10_200_000_000,
                "limit_bytes": 24_000_000_000,
                "utilization": 0.97,
                "celsius": 67.0,
                "joules": 4_900_000.0,
            }
        ],
        "bytes_sent": 3_328_000_000,
        "bytes_received": 3_411_000_000,
        "state_bytes_sent": 512_000_000,
        "state_bytes_received": 0,
        "peers": [a_peer(number) for number in range(1, 9)],
        **changes,
    }


class PageNode:
    """A NodeView whose answers a test changes."""

    def __init__(self) -> None:
        self.metrics = Metrics()
        self.now = a_status()
        self.past = [a_round(number) for number in range(128)]
        self.orders: list[SampleOrder] = []
        self.told: list[str] = []
        """What its user told it."""
        self.board = Board()
        self.names: dict[bytes, str] = {}

    def status(self) -> dict[str, Any]:
        return self.now

    def rounds(self, last: int = MAX_LAST) -> list[dict[str, Any]]:
        return self.past[-last:]

    async def sample(self, order: SampleOrder) -> Sample:
        self.orders.append(order)
        return Sample(round=128, prompt=order.prompt, text=", there was a small <b>house</b> by the lake.")

    async def invite(self) -> str:
        raise ValueError("not here")

    def invites(self) -> list[dict[str, Any]]:
        return []

    async def revoke(self, name: str) -> list[dict[str, Any]]:
        raise ValueError("not here")

    def peers(self) -> list[dict[str, Any]]:
        return []

    async def leaderboard(self) -> dict[str, Any]:
        return board_as_json(self.board, self.names)

    def targets(self) -> list[dict[str, Any]]:
        return []

    async def ping(self, peer_id: str) -> dict[str, Any]:
        raise ValueError("not here")

    async def sightings(self) -> list[dict[str, Any]]:
        raise ValueError("not here")

    async def peer_metrics(self, peer_id: str) -> bytes:
        raise UnknownPeer

    async def ban(self, order: BanOrder) -> dict[str, Any]:
        raise ValueError("not here")

    async def unban(self, peer: str) -> bool:
        return False

    async def apply_settings(self) -> dict[str, list[str]]:
        raise ValueError("config.toml:3: not like this")

    async def pause(self, order: PauseOrder) -> dict[str, Any]:
        self.told.append("pause")
        self.now |= {"state": "paused", "reason": "user", "holds": [{"reason": "user", "detail": ""}]}
        return self.now

    async def resume(self) -> dict[str, Any]:
        self.told.append("resume")
        self.now |= {"state": "training", "reason": "", "holds": []}
        return self.now

    async def finish(self) -> dict[str, Any]:
        raise ValueError("not here")

    async def leave(self) -> dict[str, Any]:
        self.told.append("leave")
        self.now |= {"state": "draining", "reason": "user"}
        return self.now


@contextmanager
def served(node: PageNode) -> Iterator[str]:
    """The address of the page of `node`, served by another thread."""
    with served_by(ApiServer(node, port=0, token=TOKEN).run) as address:
        yield address


@contextmanager
def served_by(server: Callable[..., Coroutine[Any, Any, None]]) -> Iterator[str]:
    """The address of a page that `server` serves in another thread; it says its port when `started`."""
    loop = asyncio.new_event_loop()
    started, ports = threading.Event(), list[int]()

    def ready(port: int) -> None:
        ports.append(port)
        started.set()

    task = loop.create_task(server(started=ready))

    def run() -> None:
        asyncio.set_event_loop(loop)
        try:
            loop.run_until_complete(task)
        except asyncio.CancelledError:
            pass
        finally:
            loop.close()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        assert started.wait(30)
        yield f"http://127.0.0.1:{ports[0]}/"
    finally:
        loop.call_soon_threadsafe(task.cancel)
        thread.join(30)


@cache
def missing() -> str:
    """What a test in a browser lacks here, in one line; empty where there is all."""
    if not CHROMIUM.exists():
        return f"no {CHROMIUM}: install Debian's chromium, or name another in TALKOOT_CHROMIUM"
    try:
        import playwright  # noqa: F401 - only whether it is there
    except ImportError:
        return "no playwright: pip install --group dev"
    return ""


needs_browser = pytest.mark.skipif(bool(missing()), reason=f"PAGE NOT TESTED: {missing()}")


@contextmanager
def chromium() -> Iterator[Any]:
    """A headless browser (`playwright.sync_api.Browser`)."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        browser = driver.chromium.launch(
            executable_path=str(CHROMIUM), args=["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        )
        try:
            yield browser
        finally:
            browser.close()


class Tab:
    """One open page that remembers what went wrong."""

    def __init__(self, browser: Any, address: str, script: str = "", **options: object) -> None:
        """`options` of `Browser.new_context`, such as `viewport` and `color_scheme`; `script` runs first."""
        self.context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **options})
        self.context.add_init_script(WATCH + script)
        self.page = self.context.new_page()
        self.page.set_default_timeout(1e3 * PATIENCE_S)
        self.errors: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", self._said)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("dialog", self._asked)
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(address)
        first_round = "document.querySelector('#rounds button').textContent"
        self.until("document.getElementById('link').textContent !== 'connecting'")
        self.until(f"/[0-9]/.test({first_round})")
        self.until("document.querySelectorAll('canvas').length === 2")

    def _asked(self, dialog: Any) -> None:
        self.errors.append("a dialog")
        dialog.dismiss()

    def _said(self, message: Any) -> None:
        if message.type in ("error", "warning"):
            self.errors.append(message.text)

    def until(self, expression: str) -> None:
        """Wait until a JavaScript expression is true, looked for often: the page itself may evaluate none."""
        deadline = time.monotonic() + PATIENCE_S
        while not self.page.evaluate(f"!!({expression})"):
            assert time.monotonic() < deadline, f"never: {expression}"
            self.page.wait_for_timeout(20)

    def text(self, selector: str) -> str:
        """The text of an element."""
        return str(self.page.text_content(selector))

    def shift(self) -> float:
        """Cumulative layout shift so far."""
        return float(self.page.evaluate("window.layoutShift"))

    def close(self) -> None:
        """End it; nothing may have gone wrong."""
        self.context.close()
        assert self.errors == []


WATCH = """
window.layoutShift = 0;
new PerformanceObserver((list) => {
  for (const entry of list.getEntries()) if (!entry.hadRecentInput) window.layoutShift += entry.value;
}).observe({ type: "layout-shift", buffered: true });
"""


@contextmanager
def tab(browser: Any, address: str, **options: Any) -> Iterator[Tab]:
    """A tab in which nothing may go wrong."""
    opened = Tab(browser, address, **options)
    try:
        yield opened
    except BaseException:
        opened.context.close()
        raise
    opened.close()
