"""The page's files, its events and its samples: bounded, for a browser on this machine, never in the way."""

import asyncio
import hashlib
import re
import sys
import tomllib
from base64 import b64encode
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import psutil
import pytest
from page_rig import TOKEN, PageNode, a_status

from talkoot.peer import events, presets, sample_worker, sampling
from talkoot.peer.api import MAX_BODY_BYTES, ApiServer
from talkoot.peer.bundle import bundled, module
from talkoot.peer.page import POLICY, assets
from talkoot.peer.sampling import BusyError, Sample, SampleOrder, Sampler
from talkoot.peer.statedir import StateDir

WEB = Path(__file__).parent.parent / "peer" / "web"
Client = aiohttp.ClientSession


def serve(node: PageNode, use: Callable[[Client, str], Awaitable[None]]) -> None:
    """Run `use` with a client and the origin of the page of `node`."""

    async def main() -> None:
        port: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        async with asyncio.timeout(60), asyncio.TaskGroup() as tasks:
            server = tasks.create_task(ApiServer(node, port=0, token=TOKEN).run(started=port.set_result))
            origin = f"http://127.0.0.1:{await port}"
            async with Client(origin, connector=aiohttp.TCPConnector(limit=0)) as client:
                await use(client, origin)
            server.cancel()

    asyncio.run(main())


# -- files -------------------------------------------------------------------------------------------


def test_every_file_is_served_and_none_comes_from_elsewhere() -> None:
    found = assets()
    assert {"/", "/web/page.js", "/web/uplot/uPlot.esm.js"} <= found.keys()
    assert not any(path.endswith(("LICENSE", ".md")) for path in found)

    async def use(client: Client, origin: str) -> None:
        for path, asset in found.items():
            async with client.get(path) as answer:
                assert (answer.status, await answer.read()) == (200, asset.content)
                assert answer.headers["Content-Type"] == asset.content_type
                assert answer.headers["Content-Security-Policy"] == asset.policy
        assert {asset.policy for path, asset in found.items() if path != "/"} == {POLICY}
        for path in ("/web/", "/web/LICENSE", "/web/../page.py", "/web/%2e%2e/page.py", "/web//page.js"):
            async with client.get(path) as answer:
                assert answer.status == 404

    serve(PageNode(), use)


def test_the_page_names_only_files_that_there_are_and_holds_no_script_or_style() -> None:
    html = (WEB / "index.html").read_text()
    named = set(re.findall(r'(?:src|href)="(/[^"]*)"', html))
    assert {path for path in named if path.startswith("/web/")} <= assets().keys()
    assert not re.search(r"<style|<script(?![^>]* src=)|\son\w+=|\sstyle=|https?:", html)
    for script in WEB.glob("*.js"):
        assert not re.search(r"innerHTML|insertAdjacentHTML|document\.write|eval\(", script.read_text())


def test_the_page_holds_what_it_needs_to_be_shown_and_its_policy_names_each_piece() -> None:
    page = assets()["/"]
    html = page.content.decode()
    assert re.findall(r'(?:src|href)="(/web/[^"]*)"', html) == [
        "/web/icon.svg"
    ]  # of the tab, not of the page
    for kind, directive, pieces in (("script", "script-src", 2), ("style", "style-src", 2)):
        inside = re.findall(rf"<{kind}[^>]*>(.*?)</{kind}>", html, re.DOTALL)
        hashes = [b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in inside]
        assert len(hashes) == pieces
        allowed = " ".join(f"'sha256-{digest}'" for digest in hashes)
        assert f"{directive} 'self' {allowed};" in page.policy
    assert "unsafe" not in page.policy


MODULES = {
    "/main.js": (
        'import { one } from "/one.js";\nimport * as two from "/two.js";\n'
        'one(two.LIMIT);\nimport("/late.js");\n'
    ),
    "/one.js": 'import { LIMIT } from "/two.js";\nexport async function one(x) { return x + LIMIT; }\n',
    "/two.js": "const hidden = 1;\nexport const LIMIT = hidden;\nexport class Two {}\n",
}


def test_modules_become_one_in_which_each_is_there_once() -> None:
    whole = module("/main.js", MODULES)
    assert [whole.count(name) for name in ("const hidden = 1;", "class Two {}", "async function one(x)")] == [
        1
    ] * 3
    assert "return { LIMIT, Two };" in whole
    assert "const { one } = module1;" in whole
    assert "const two = module0;" in whole
    assert "const { LIMIT } = module0;" in whole
    assert 'import("/late.js");' in whole  # fetched when it is wanted
    assert not re.search(r"^(import[ {*]|export)", whole, re.MULTILINE)


@pytest.mark.parametrize(
    "text",
    [
        'import one from "/two.js";',
        'import {\n  LIMIT,\n} from "/two.js";\nexport default 1;',
        'export { one } from "/two.js";',
        'const markup = "</script>";',
        'const comment = "<!--";',
    ],
)
def test_what_a_bundle_would_break_is_refused_when_it_is_made(text: str) -> None:
    with pytest.raises(AssertionError):
        bundled('<script src="/odd.js" type="module"></script>', MODULES | {"/odd.js": text})


def test_the_vendored_library_is_what_was_published() -> None:
    folder = WEB / "uplot"
    sums = re.findall(r"^([0-9a-f]{64})  (\S+)$", (folder / "README.md").read_text(), re.MULTILINE)
    assert {name for _, name in sums} == {path.name for path in folder.iterdir()} - {"README.md"}
    for digest, name in sums:
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest


def test_every_file_goes_into_a_wheel() -> None:
    setuptools = tomllib.loads((WEB.parent.parent / "pyproject.toml").read_text())["tool"]["setuptools"]
    packed = {
        path for pattern in setuptools["package-data"]["talkoot.peer"] for path in WEB.parent.glob(pattern)
    }
    assert {path for path in WEB.rglob("*") if path.is_file()} <= packed


# -- events ------------------------------------------------------------------------------------------


async def next_event(answer: aiohttp.ClientResponse) -> tuple[str, bytes]:
    name = b""
    async for line in answer.content:
        if line.startswith(b"event: "):
            name = line[7:].strip()
        elif line.startswith(b"data: "):
            return name.decode(), line[6:].strip()
    raise AssertionError("it ended")


def test_events_say_what_the_api_says_and_only_what_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "INTERVAL_S", 0.02)
    node = PageNode()

    async def use(client: Client, origin: str) -> None:
        async with client.get("/api/v1/events") as answer:
            assert answer.content_type == "text/event-stream"
            assert answer.headers["Cache-Control"] == "no-store"
            for path in ("status", "rounds"):
                async with client.get(f"/api/v1/{path}?last=8") as other:
                    assert await next_event(answer) == (path, await other.read())
            node.now = a_status(round=129)
            name, data = await next_event(answer)
            assert (name, b'"round":129' in data) == ("status", True)

    serve(node, use)


def test_listeners_are_few_and_go_when_the_node_stops() -> None:
    async def use(client: Client, origin: str) -> None:
        answers = [await client.get("/api/v1/events") for _ in range(events.MAX_LISTENERS)]
        async with client.get("/api/v1/events") as answer:
            assert (answer.status, (await answer.json())["error"]) == (503, "service_unavailable")
        async with client.head("/api/v1/events") as answer:
            assert answer.status == 405
        for answer in answers:
            await next_event(answer)  # nobody was dropped for the one that came too late
            answer.close()

    serve(PageNode(), use)  # ends at once, though all of them listen


def test_a_place_is_free_again_when_a_listener_has_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "MAX_LISTENERS", 1)
    monkeypatch.setattr(events, "INTERVAL_S", 0.02)
    node = PageNode()

    async def use(client: Client, origin: str) -> None:
        for _ in range(2):
            async with asyncio.timeout(30):
                while True:
                    answer = await client.get("/api/v1/events")
                    if answer.status == 200:
                        break
                    node.now = a_status(
                        uptime_s=node.now["uptime_s"] + 1
                    )  # writing shows that nobody listens
                    await asyncio.sleep(0.05)
            await next_event(answer)
            answer.close()

    serve(node, use)


def test_one_who_reads_nothing_is_dropped_and_costs_the_others_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(events, "WRITE_TIMEOUT_S", 0.1)
    monkeypatch.setattr(events, "INTERVAL_S", 0.01)
    looks = 0

    class Loud(PageNode):
        def status(self) -> dict[str, Any]:
            nonlocal looks
            looks += 1
            return {"state": "training", "look": looks, "padding": "x" * 2_000_000}

    server_side: list[events.Events] = []
    begin = events.Events.__init__

    def remembered(self: events.Events, *arguments: Any, **options: Any) -> None:
        begin(self, *arguments, **options)
        server_side.append(self)

    monkeypatch.setattr(events.Events, "__init__", remembered)

    async def until_dropped(client: Client, origin: str) -> None:
        deaf = await client.get("/api/v1/events", read_bufsize=1024)
        async with client.get("/api/v1/events") as answer:
            async for _ in answer.content.iter_any():
                if server_side[0].listeners == 1:
                    break
        deaf.close()

    serve(Loud(), until_dropped)


# -- who may ask -------------------------------------------------------------------------------------


def test_only_the_page_itself_or_the_token_asks_for_a_sample() -> None:
    node = PageNode()

    async def use(client: Client, origin: str) -> None:
        own = {"Origin": origin, "Sec-Fetch-Site": "same-origin", "Content-Type": "application/json"}

        async def ask(headers: dict[str, str], body: str = '{"prompt":"a"}') -> int:
            async with client.post("/api/v1/sample", data=body, headers=headers) as answer:
                return answer.status

        assert await ask(own) == 200
        assert await ask({"X-Talkoot-Token": TOKEN}) == 200
        for name in own:
            assert await ask({key: value for key, value in own.items() if key != name}) == 401
        assert await ask(own | {"Content-Type": "text/plain"}) == 401
        assert await ask(own | {"Origin": "http://evil.example"}) == 403
        for site in ("cross-site", "same-site"):
            assert await ask(own | {"Sec-Fetch-Site": site}) == 403
        for wrong in ("", "[]", '{"prompt":1}', '{"prompt":"%s"}' % ("x" * 201), '{"other":""}', "[" * 9999):
            assert await ask(own, wrong) == 400
        assert await ask(own, "x" * (MAX_BODY_BYTES + 1)) == 413
        for path in ("leave", "invite", "ban", "unban", "revoke"):
            async with client.post(f"/api/v1/{path}", data="{}", headers=own) as answer:
                assert answer.status == 401  # nothing else is open to the page

    serve(node, use)
    assert node.orders == [SampleOrder("a")] * 2


def test_pages_of_other_sites_read_nothing() -> None:
    async def use(client: Client, origin: str) -> None:
        for path in ("/api/v1/status", "/api/v1/events", "/metrics", "/web/page.js"):
            for site in ("cross-site", "same-site"):
                async with client.get(path, headers={"Sec-Fetch-Site": site}) as answer:
                    assert answer.status == 403
        async with client.get("/", headers={"Sec-Fetch-Site": "cross-site"}) as answer:
            assert answer.status == 200  # a link to the page is no harm

    serve(PageNode(), use)


# -- samples -----------------------------------------------------------------------------------------

ECHO = """
import sys, os, json
job = json.load(sys.stdin)
print(json.dumps({"round": 3, "prompt": job["prompt"], "text": os.environ["CUDA_VISIBLE_DEVICES"] + "."}))
"""


def sampler(code: str) -> Sampler:
    return Sampler(Path("/nowhere"), (sys.executable, "-c", code))


def test_one_sample_at_a_time_and_a_pause_between() -> None:
    maker = sampler(ECHO)

    async def main() -> None:
        async with asyncio.TaskGroup() as tasks:
            first = tasks.create_task(maker.sample(SampleOrder("hei"), numel=1))
            await asyncio.sleep(0)
            with pytest.raises(BusyError):
                await maker.sample(SampleOrder("hei"), numel=1)
        assert await first == Sample(3, "hei", ".")
        with pytest.raises(BusyError) as busy:
            await maker.sample(SampleOrder("hei"), numel=1)
        assert 0 < busy.value.wait_s <= sampling.PAUSE_S

    asyncio.run(main())


@pytest.mark.parametrize(
    ("code", "why"),
    [
        ("import sys; sys.exit(1)", "ended without one"),
        ("print('x' * 200000)", "ended without one"),
        ("""print('{"error": "no model"}')""", "no model"),
        ("import time; time.sleep(60)", "busy"),
    ],
)
def test_a_process_that_makes_none(code: str, why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampling, "LIMIT_S", 1.0 if "sleep" in code else 30.0)
    before = set(psutil.Process().children())  # of other tests, and of what they left in this process
    with pytest.raises(ValueError, match=why):
        asyncio.run(sampler(code).sample(SampleOrder(), numel=1))
    after = set(psutil.Process().children())
    assert not [child for child in after - before if child.status() != psutil.STATUS_ZOMBIE]


def test_a_model_that_writes_nothing_says_so(tmp_path: Path) -> None:
    job = sampling.SampleJob(str(tmp_path), "a", 5, 1.0, 0)
    with pytest.raises(ValueError, match="no model yet"):
        sample_worker.make(job)
    StateDir(tmp_path).save_manifest(presets.make("numpy-test", name="x").canonical())
    with pytest.raises(ValueError, match="holds no model yet"):
        sample_worker.make(job)


def test_no_sample_where_memory_is_short() -> None:
    with pytest.raises(ValueError, match="too little free memory"):
        asyncio.run(sampler(ECHO).sample(SampleOrder(), numel=1 << 50))


def test_a_program_that_is_not_there() -> None:
    with pytest.raises(ValueError, match="No such file"):
        asyncio.run(Sampler(Path("/nowhere"), ("/nowhere/python",)).sample(SampleOrder(), numel=1))
