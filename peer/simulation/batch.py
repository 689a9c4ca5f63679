"""Many seeds in several processes."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from queue import SimpleQueue
from threading import Thread
from typing import Any


def run_batch(
    seeds: list[int],
    *,
    peers: int,
    rounds: int,
    kinds: tuple[str, ...],
    jobs: int,
    exchange: str = "any",
) -> Iterator[dict[str, Any]]:
    """Results as they come, in no particular order. Raises RuntimeError when a process dies."""
    answers: SimpleQueue[dict[str, Any] | str] = SimpleQueue()
    jobs = max(1, min(jobs, len(seeds)))
    with ExitStack() as stack:
        for job in range(jobs):
            process = _start(seeds[job::jobs], peers, rounds, kinds, exchange)
            listener = Thread(target=_listen, args=(process, answers), daemon=True)
            listener.start()
            stack.callback(_end, process, listener)
        for _ in seeds:
            answer = answers.get()
            if isinstance(answer, str):
                raise RuntimeError(answer)
            yield answer


def _start(
    seeds: list[int], peers: int, rounds: int, kinds: tuple[str, ...], exchange: str
) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "talkoot.peer.simulation.worker"]
    arguments = [str(peers), str(rounds), ",".join(kinds), exchange, *map(str, seeds)]
    return subprocess.Popen(  # noqa: S603 - ourselves
        command + arguments,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )


def _listen(process: "subprocess.Popen[str]", answers: "SimpleQueue[dict[str, Any] | str]") -> None:
    assert process.stdout is not None
    assert process.stderr is not None
    for line in process.stdout:
        answers.put(json.loads(line))
    words = process.stderr.read().strip().splitlines()
    if process.wait() != 0:
        answers.put(f"a simulation process died: {words[-1] if words else 'no reason given'}")


def _end(process: "subprocess.Popen[str]", listener: Thread) -> None:
    process.kill()
    process.wait()
    listener.join()
    for pipe in (process.stdout, process.stderr):
        if pipe is not None:
            pipe.close()
