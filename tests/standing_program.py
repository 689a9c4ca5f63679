"""A program with the daemon's watchdog and nothing else: stands still once, and says why it began again.

    python tests/standing_program.py FOLDER KIND

KIND: `loop`, `worker`, or `leaving` (a worker hangs while the program ends).
"""

import asyncio
import subprocess
import sys
import threading
from functools import partial
from pathlib import Path

import uvloop

from talkoot.peer.guest import restarting, watchdog
from talkoot.peer.guest.notify import Notifier
from talkoot.peer.guest.standstill import Standstill

LOOKS = 2


def hang() -> None:
    """For good."""
    threading.Event().wait()


async def stand_still(folder: Path, kind: str) -> None:
    """Let it happen, with a child that nobody will wait for."""
    leaving = kind == "leaving"
    mine = watchdog.Watchdog(folder, notifier=Notifier(), state=lambda: "", leaving=lambda: leaving)
    mine.begin()
    with subprocess.Popen(["sleep", "600"]) as child:  # noqa: ASYNC220 - nothing else is to run
        (folder / "child").write_text(str(child.pid))
        async with asyncio.TaskGroup() as group:
            turning = group.create_task(mine.run())
            await asyncio.sleep(0)
            match kind:
                case "loop":
                    hang()
                case "worker":
                    await asyncio.to_thread(hang)
                case "leaving":
                    asyncio.get_running_loop().run_in_executor(None, hang)
                    turning.cancel()


def main(folder: Path, kind: str) -> None:
    """Once, and once more."""
    why = restarting.why_again(folder)
    if why is not None:
        sys.stdout.write(f"{why}\n")
        return
    vars(watchdog)["Standstill"] = partial(Standstill, loop_looks=LOOKS, job_looks=LOOKS)
    uvloop.run(stand_still(folder, kind))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
