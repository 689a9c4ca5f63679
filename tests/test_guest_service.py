"""The service that looks: it puts and lifts holds, and obeys changed settings at once."""

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import pytest

from talkoot.peer.guest.holds import Holds
from talkoot.peer.guest.schedule import DAYS
from talkoot.peer.guest.senses.bus import Bus
from talkoot.peer.guest.senses.service import Senses
from talkoot.peer.guest.settings import UNDISTURBED, Current, GuestSettings

LIMIT_S = 60.0


class Watched:
    """A service that looks often, on a file of GPU readings and buses that are not there."""

    def __init__(self, folder: Path, settings: GuestSettings) -> None:
        self.readings = folder / "gpus.json"
        self.settings = Current(settings)
        self._looked = asyncio.Event()
        self.holds = Holds(self._looked.set)
        none = f"unix:path={folder}/none"
        self.senses = Senses(
            self.holds,
            self.settings,
            lambda: "cpu",
            gpu_file=self.readings,
            system=Bus("system", none),
            session=Bus("session", none),
            poll_s=0.02,
            on_look=self._looked.set,
        )

    def write(self, *processes: dict[str, object]) -> None:
        new = self.readings.with_suffix(".new")
        new.write_text(json.dumps([{"index": 0, "processes": processes}]))
        new.replace(self.readings)

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(LIMIT_S):
            while not condition():
                self._looked.clear()
                await self._looked.wait()


def run(watched: Callable[[], Watched], scenario: Callable[[Watched], Awaitable[None]]) -> None:
    async def both() -> None:
        subject = watched()
        async with asyncio.TaskGroup() as group:
            looking = group.create_task(subject.senses.run())
            await scenario(subject)
            looking.cancel()

    asyncio.run(both())


def test_a_program_and_a_gpu_user_are_given_way_to_and_come_back(tmp_path: Path) -> None:
    async def scenario(node: Watched) -> None:
        node.write()
        await node.until(lambda: "gpu_users" in node.senses.report())
        assert node.holds.shown is None
        node.write({"pid": 7, "bytes": 1 << 30, "name": "blender"})
        await node.until(lambda: "other_gpu_use" in node.holds)
        assert node.senses.report()["gpu_users"] == "blender takes memory of GPU 0 (1024 MiB by others)"
        node.write()
        await node.until(lambda: node.holds.shown is not None and node.holds.shown.until is not None)
        await node.until(lambda: "other_gpu_use" not in node.holds)

    run(lambda: Watched(tmp_path, replace(GuestSettings(), quiet_s=0.2)), scenario)


def test_changed_settings_hold_without_waiting(tmp_path: Path) -> None:
    async def scenario(node: Watched) -> None:
        node.write({"pid": 7, "bytes": 1 << 30, "name": "blender"})
        node.settings.change(replace(UNDISTURBED, gpu_users_bytes=1, quiet_s=10_000))
        await node.until(lambda: "other_gpu_use" in node.holds)
        node.settings.change(replace(UNDISTURBED, gpu_users_bytes=1 << 40, quiet_s=10_000))
        await node.until(lambda: "other_gpu_use" not in node.holds)
        node.settings.change(replace(UNDISTURBED, gpu_users_bytes=1, quiet_s=10_000))
        await node.until(lambda: "other_gpu_use" in node.holds)
        node.settings.change(UNDISTURBED)
        await node.until(lambda: "other_gpu_use" not in node.holds)
        node.settings.change(replace(UNDISTURBED, schedule=(_not_now(),)))
        assert "schedule" in node.holds, "within the change"

    run(lambda: Watched(tmp_path, UNDISTURBED), scenario)


def _not_now() -> str:
    return DAYS[(datetime.now().astimezone().weekday() + 3) % 7]


def test_what_cannot_be_told_is_said_once_and_never_guessed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "talkoot.senses")

    async def scenario(node: Watched) -> None:
        node.settings.change(replace(GuestSettings(), user_active=True, max_celsius=1000))
        await node.until(lambda: "other_gpu_use" in node.holds)
        report = node.senses.report()
        for title, why in {
            "gamemode": "there is no session bus",
            "user_active": "there is no system bus",
            "metered": "there is no system bus",
        }.items():
            assert report[title] == f"unknown: {why}"
        assert {hold.reason for hold in node.holds.all} == {"other_gpu_use"}

    def watched() -> Watched:
        node = Watched(tmp_path, GuestSettings())
        node.write({"pid": 7, "bytes": 1 << 30, "name": "blender"})
        return node

    run(watched, scenario)
    lines = [record.message for record in caplog.records]
    assert sum("gamemode (there is no session bus)" in line for line in lines) == 1, lines
