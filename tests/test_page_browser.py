"""The page in a real headless Chromium: it shows what the API says, to everybody, and runs no other code."""

from collections.abc import Iterator
from typing import Any

import pytest
from page_rig import (
    TOKEN,
    PageNode,
    Tab,
    a_peer,
    a_round,
    a_status,
    chromium,
    needs_browser,
    peer_id,
    served,
    tab,
)

from talkoot.dht.identity import key_of_peer_id, peer_id_of
from talkoot.peer import events
from talkoot.peer.credit import Total

pytestmark = [needs_browser, pytest.mark.xdist_group("browser")]

PHONE = {"viewport": {"width": 390, "height": 844}, "device_scale_factor": 2}


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as opened:
        yield opened


def values(opened: Tab) -> dict[str, str]:
    """What the page holds for each key of the status."""
    found = opened.page.eval_on_selector_all(
        "[data-key]", "all => all.map(e => [e.dataset.key, e.value ?? e.textContent])"
    )
    return dict(found)


def as_javascript_says(value: object) -> str:
    if value is None:
        return ""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def test_what_it_shows_is_what_the_status_says(browser: Any) -> None:
    node = PageNode()
    with served(node) as address, tab(browser, address) as opened:
        assert opened.text("#link") == "live"
        shown = values(opened)
        assert len(shown) > 20
        assert shown == {key: as_javascript_says(node.now[key]) for key in shown}
        assert opened.text("[data-key=steps_total]") == "7,680"
        assert opened.text("[data-key=trainer_memory_bytes]") == "9.66\u202fGB"
        assert opened.text("#gpu-memory") == "10.2\u202fGB of 24.0\u202fGB"
        assert opened.text("#gpu-temperature") == "67\u202f°C"
        assert opened.text("#peers-connected") == "8"
        assert opened.text("#own-counted") == "9"
        rows = opened.page.eval_on_selector_all("#peers tbody tr", "all => all.map(row => row.dataset.peer)")
        assert rows == [peer["peer_id"] for peer in node.now["peers"]]
        numbers = opened.page.eval_on_selector_all("#rounds button", "all => all.map(e => e.textContent)")
        assert numbers == [str(number) for number in range(127, 117, -1)]
        canvases = opened.page.eval_on_selector_all("canvas", "all => all.map(e => e.width * e.height > 0)")
        assert canvases == [True, True]
        assert all(request.startswith(address) for request in opened.requests)


def test_one_answer_and_its_questions_are_all_that_it_waits_for(browser: Any) -> None:
    with served(PageNode()) as address, tab(browser, address) as opened:
        first, *asked = (request.removeprefix(address) for request in opened.requests)
        assert first == ""
        assert set(asked[:2]) == {"api/v1/status", "api/v1/rounds?last=300"}
        # It listens before it reads an answer; the browser may tell of what follows from one first.
        assert "api/v1/events" in asked[2:4]
        assert set(asked[2:]) <= {
            "api/v1/events",
            "web/icon.svg",
            "api/v1/leaderboard?top=10",
            "web/charts.js",
            "web/format.js",
            "web/uplot/uPlot.esm.js",
        }


def test_it_follows_the_node(browser: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "INTERVAL_S", 0.05)
    node = PageNode()
    with served(node) as address, tab(browser, address) as opened:
        lost, gone = node.now["peers"][2]["peer_id"], node.now["peers"][3]["peer_id"]
        peers = [
            peer | {"connected": peer["peer_id"] != lost}
            for peer in node.now["peers"]
            if peer["peer_id"] != gone
        ]
        node.now = a_status(peers=[*peers, a_peer(77)], state="paused", reason="disk", disk="it is full")
        opened.until(f"document.querySelector('[data-peer=\"{peer_id(77)}\"]')")
        assert "not connected" in opened.text(f'[data-peer="{lost}"]')
        assert opened.page.query_selector(f'[data-peer="{gone}"]') is None
        assert opened.text("#why") == "The disk: it is full"
        assert opened.text("#by-state") == "1 not connected7 training"
        news = opened.text("#news")
        for words in (
            f"{lost[-8:]} lost its connection",
            f"{gone[-8:]} is gone",
            "this node: paused, disk",
        ):
            assert words in news

        left = [{"peer_id": peer_id(5), "reason": "too slow"}]
        node.past = [*node.past, a_round(128, own=False, left_out=left, failures=["exchange: timed out"])]
        opened.until("document.querySelector('#rounds button').textContent === '128'")
        detail = opened.text("#round-detail")
        assert f"{peer_id(5)[-8:]}: too slow" in detail
        assert "exchange: timed out" in detail
        assert opened.page.get_attribute("#contributions li:last-child", "data-own") == "no"
        assert f"{peer_id(5)[-8:]} left out, too slow" in opened.text("#news")


def test_the_leaderboard_is_that_of_the_certificates(browser: Any) -> None:
    node = PageNode()
    own = key_of_peer_id(node.now["peer_id"])
    for number, key in enumerate((bytes([9]) * 32, own, bytes([7]) * 32)):
        node.board.totals[key] = Total(rounds=5 - number, credit=1000 * (5 - number), last_round=40 + number)
    node.board.num_rounds, node.board.first, node.board.last = 50, 0, 49
    node.names[bytes([9]) * 32] = "<b>Ada</b>"
    with served(node) as address, tab(browser, address) as opened:
        opened.until("document.querySelectorAll('#board tr[data-peer]').length === 3")
        cells = "all => all.map(row => [...row.cells].map(cell => cell.textContent))"
        shown = opened.page.eval_on_selector_all("#board tr[data-peer]", cells)
        assert shown == [
            ["1", "<b>Ada</b>", "5.00\u202fk", "5", "40"],
            ["2", node.now["peer_id"][-8:], "4.00\u202fk", "4", "41"],
            ["3", peer_id_of(bytes([7]) * 32)[-8:], "3.00\u202fk", "3", "42"],
        ]
        chosen = opened.page.eval_on_selector_all("#board tr.selected", cells)
        assert chosen == [shown[1]]
        assert node.board.fingerprint.hex()[:16] in opened.text("#board-span")


def test_a_page_that_may_not_listen_asks(browser: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "MAX_LISTENERS", 0)
    node = PageNode()
    with served(node) as address:
        opened = Tab(browser, address)
        assert opened.text("#link") == "polling"
        node.now = a_status(round=4321)
        opened.until("document.querySelector('[data-key=round]').value === '4321'")
        opened.context.close()
        assert all("503" in error for error in opened.errors)


def test_a_node_that_stops_is_missed(browser: Any) -> None:
    with served(PageNode()) as address:
        opened = Tab(browser, address)
    opened.until("document.getElementById('link').textContent === 'no answer'")
    assert opened.text("[data-key=round]") == "128"
    opened.context.close()


EVIL = '<img src=x onerror="window.evil=1"><script>window.evil=1</script>'


def test_text_from_others_never_becomes_markup(browser: Any) -> None:
    node = PageNode()
    elements = "document.querySelectorAll('img, script, b, iframe').length"
    with served(node) as address, tab(browser, address) as opened:
        before = opened.page.evaluate(elements)

    def poisoned(value: Any) -> Any:
        if isinstance(value, str):
            return EVIL
        if isinstance(value, dict):
            return {key: poisoned(inner) for key, inner in value.items()}
        return [poisoned(inner) for inner in value] if isinstance(value, list) else value

    node.now = poisoned(node.now) | {"warning": EVIL, "reason": EVIL, "proven": EVIL}
    node.past = [poisoned(record) | {"failures": [EVIL]} for record in node.past]
    node.now["peers"] = [a_peer(1, state=EVIL, version=EVIL, role=EVIL), *node.now["peers"]]
    with served(node) as address, tab(browser, address) as opened:
        opened.page.click("#rounds button")
        assert opened.page.evaluate(elements) == before
        assert opened.page.evaluate("window.evil") is None
        assert EVIL in opened.text("h1")
        assert EVIL in opened.text("#round-detail")
        assert EVIL in opened.text(f'[data-peer="{peer_id(1)}"]')
        refused = "() => { try { document.body.innerHTML = '<b>'; return false } catch { return true } }"
        assert opened.page.evaluate(refused)  # a script of ours could not do it by mistake
        opened.errors = [error for error in opened.errors if "TrustedHTML" not in error]


def test_a_sample_is_asked_for(browser: Any) -> None:
    node = PageNode()
    with served(node) as address, tab(browser, address) as opened:
        opened.page.fill("#prompt", "In <i>summer</i>")
        opened.page.press("#prompt", "Enter")
        opened.until("document.querySelector('.sample')")
        assert opened.text(".sample") == "In <i>summer</i>, there was a small <b>house</b> by the lake."
        assert opened.text("#text .note") == "from round 128"
    assert [order.prompt for order in node.orders] == ["In <i>summer</i>"]


def test_a_keyboard_is_enough(browser: Any) -> None:
    with served(PageNode()) as address, tab(browser, address) as opened:
        page, reached = opened.page, []
        for _ in range(24):
            page.keyboard.press("Tab")
            element = "document.activeElement"
            reached.append(page.evaluate(f"{element}.id || {element}.textContent.trim().slice(0, 9)"))
            visible = f"{element} === document.body || getComputedStyle({element}).outlineStyle !== 'none'"
            assert page.evaluate(visible), reached[-1]
        wanted = ["Skip to t", "theme", "127", "118", "round-detail", "prompt", "ask", "text"]
        places = [reached.index(name) for name in wanted]
        assert places == sorted(places)
        page.focus("#rounds tbody tr:nth-child(3) button")
        page.keyboard.press("Enter")
        assert "125, final" in opened.text("#round-detail")
        assert page.get_attribute("#rounds tbody tr:nth-child(3) button", "aria-pressed") == "true"
        page.focus("#theme")
        page.keyboard.press("Enter")
        page.keyboard.press("Space")
        assert page.evaluate("document.documentElement.dataset.theme") == "dark"
        page.reload()
        assert page.evaluate("document.documentElement.dataset.theme") == "dark"


def test_a_screen_reader_finds_its_way(browser: Any) -> None:
    with served(PageNode()) as address, tab(browser, address) as opened:
        for role in ("banner", "main", "contentinfo"):
            assert opened.page.get_by_role(role).count() == 1
        headings = ["Swarm", "Rounds", "Peers", "This node", "Model", "Lately"]
        for name in headings:
            assert opened.page.get_by_role("heading", name=name, exact=True, level=2).count() == 1
            assert opened.page.get_by_role("region", name=name, exact=True).count() >= 1
        for start in ("The last ten rounds", "The other peers"):
            assert opened.page.locator(f"caption:has-text('{start}')").count() == 1
        assert "held-out 2.34" in str(opened.page.get_attribute("#loss-chart", "aria-label"))
        assert opened.page.get_by_label("Begin a text").count() == 1
        assert opened.page.get_by_role("log").get_attribute("aria-live") == "polite"
        unnamed = "all => all.filter(e => !e.innerText.trim() && !e.ariaLabel).length"
        assert opened.page.eval_on_selector_all("button, a", unnamed) == 0


LUMINANCE = """
(pairs) => pairs.map(([selector]) => {
  const paint = (colour) => {
    const parts = colour.match(/[\\d.]+/g).map(Number);
    const linear = (c) => c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
    return parts.slice(0, 3).map((c) => linear(c / 255));
  };
  const weights = [0.2126, 0.7152, 0.0722];
  const bright = (colour) => paint(colour).reduce((sum, c, i) => sum + weights[i] * c, 0);
  const element = document.querySelector(selector);
  let below = element;
  while (getComputedStyle(below).backgroundColor === "rgba(0, 0, 0, 0)") below = below.parentElement;
  const both = [bright(getComputedStyle(element).color), bright(getComputedStyle(below).backgroundColor)];
  return [selector, (Math.max(...both) + 0.05) / (Math.min(...both) + 0.05)];
})
"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out(browser: Any, scheme: str) -> None:
    looked_at = (
        "h1", "h2", ".note", "#link", ".facts dt", ".facts dd", "#rounds button", "#rounds .notable",
        "#peers td", "thead th", "footer a", "footer p", "#ask", "label", ".news time", ".key", "#prompt",
    )  # fmt: skip
    with served(PageNode()) as address, tab(browser, address, color_scheme=scheme) as opened:
        contrasts = opened.page.evaluate(LUMINANCE, [[selector] for selector in looked_at])
    assert {name: ratio for name, ratio in contrasts if ratio < 4.5} == {}


@pytest.mark.parametrize("options", [{}, PHONE], ids=["wide", "phone"])
def test_nothing_jumps(browser: Any, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "INTERVAL_S", 0.05)
    node = PageNode()
    with served(node) as address, tab(browser, address, **options) as opened:
        node.past = [*node.past, a_round(128, left_out=[{"peer_id": peer_id(5), "reason": "too slow"}])]
        node.now = a_status(peers=[a_peer(number) for number in range(1, 20)], round=129)
        opened.until("document.querySelectorAll('#peers tbody tr').length === 19")
        opened.until("document.querySelector('#rounds button').textContent === '128'")
        assert opened.page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
        assert opened.shift() < 0.001


ORDERS = "[...document.querySelectorAll('#orders button:not(:disabled)')].map(e => e.textContent).join()"


def test_who_has_the_token_may_pause_the_node_and_end_it(browser: Any) -> None:
    node = PageNode()
    with served(node) as address, tab(browser, f"{address}#token={TOKEN}") as opened:
        assert opened.page.url == address  # it does not stay in the address
        assert not opened.page.is_visible("#orders-hint")
        opened.until(f"{ORDERS} === 'Pause,Finish,Leave'")
        opened.page.click("[data-order=pause]")
        opened.until(f"{ORDERS} === 'Resume,Leave'")
        opened.page.reload()
        opened.until(f"{ORDERS} === 'Resume,Leave'")
        opened.page.click("[data-order=resume]")
        opened.until(f"{ORDERS} === 'Pause,Finish,Leave'")
        opened.page.click("[data-order=leave]")
        opened.until("document.getElementById('orders-answer').textContent.includes('once more')")
        assert node.told == ["pause", "resume"]
        opened.page.click("[data-order=leave]")
        opened.until(f"{ORDERS} === ''")
        assert node.told == ["pause", "resume", "leave"]


def test_without_the_token_there_are_no_orders(browser: Any) -> None:
    with served(PageNode()) as address, tab(browser, address) as opened:
        assert not opened.page.is_visible("#orders")
        assert "talkoot page" in opened.text("#orders-hint")
        assert not opened.page.evaluate("sessionStorage.length")
