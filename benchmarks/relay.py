"""What a relay carries, and what that costs: `python benchmarks/relay.py [rate|memory|connections]...`

`rate`: unmodified p2pd peers (pairs at once) send to each other through `talkoot relay`; megabytes a
second, and megabytes for each second of the relay's processor time. `memory`: resident memory with 100
circuits, moving and stalled. `connections`: resident memory over 10,000 connections, each with a handshake
and a reservation.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import psutil

TESTS = Path(__file__).parent.parent / "tests"
MB = 1e6
TASKS = {
    "idle": "idle",
    "paced": "100 kB/s each way on each, 20 MB/s in all",
    "burst": "1 MiB each way on all at once",
    "stalled": "receivers take nothing: all windows full",
}
"""Of `tests/relay_crowd.py`."""


class Served:
    """A running `talkoot relay`."""

    def __init__(self, process: psutil.Popen, address: str) -> None:
        self._process = process
        self.address = address

    @property
    def memory_mb(self) -> float:
        return self._process.memory_info().rss / MB

    @property
    def cpu_s(self) -> float:
        times = self._process.cpu_times()
        return times.user + times.system


@contextmanager
def relay(*arguments: str) -> Iterator[Served]:
    """For anybody, on loopback."""
    where = ("--listen", "127.0.0.1", "--port", "0", "--http", "none")
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "talkoot.cli.main", "relay", "--any", *where, "--state-dir", folder]
        process = psutil.Popen(
            [*command, *arguments], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        try:
            address = process.stdout.readline().strip()
            process.stdout.readline()
            yield Served(process, address)
        finally:
            process.terminate()
            process.wait(30)


@contextmanager
def crowd(served: Served, task: str, count: int) -> Iterator[subprocess.Popen[str]]:
    """`tests/relay_crowd.py`, ended on exit."""
    command = [sys.executable, str(TESTS / "relay_crowd.py"), served.address, task, str(count)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        yield process
        process.communicate(timeout=60)
        assert process.returncode == 0, process.returncode
    finally:
        process.kill()
        process.wait()


def rate(pairs: int, mib: int) -> None:
    """Pairs of p2pd that send `mib` MiB each way, all at once."""
    with relay("--rate", "10GB", "--client-rate", "10GB", "--circuit-rate", "10GB") as served:
        before, began = served.cpu_s, time.monotonic()
        command = [sys.executable, str(TESTS / "relay_clients.py"), served.address, str(pairs), str(mib)]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=580)
        results = [json.loads(line) for line in done.stdout.splitlines()]
        cpu_s, memory = served.cpu_s - before, served.memory_mb
    each = [number for result in results for number in result["MB/s"]]
    passed = pairs * 2 * mib * 1.048576
    print(
        f"| {pairs} | {passed:.0f} | {min(each):.1f} to {max(each):.1f} | {cpu_s:.1f} | {passed / cpu_s:.0f} "
        f"| {memory:.0f} | {max(result['reserved_s'] for result in results):.1f} |",
        flush=True,
    )
    assert len(results) == pairs, time.monotonic() - began


def memory(count: int) -> None:
    """Circuits that move and circuits that are full."""
    for task, words in TASKS.items():
        with relay("--circuits", str(2 * count)) as served:
            before = served.memory_mb
            with crowd(served, task, count) as process:
                most = before
                assert process.stdout is not None
                with ThreadPoolExecutor(1) as waiting:
                    made = waiting.submit(process.stdout.readline)
                    while not made.done():
                        most = max(most, served.memory_mb)
                        time.sleep(0.1)  # between two samples of memory
                most = max(most, served.memory_mb)
            print(f"| {count} circuits, {words} | {before:.0f} | {most:.0f} |", flush=True)


def connections(count: int) -> None:
    """Memory after each tenth."""
    with relay() as served:
        found = [served.memory_mb]
        before, began = served.cpu_s, time.monotonic()
        with crowd(served, "connections", count) as process:
            assert process.stdout is not None
            for _ in range(10):
                process.stdout.readline()
                found.append(served.memory_mb)
            took, cpu_s = time.monotonic() - began, served.cpu_s - before
    print(
        f"| {count} | {' '.join(f'{each:.0f}' for each in found)} | {took:.0f} | {1000 * cpu_s / count:.1f} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", nargs="*", choices=("rate", "memory", "connections", []), default=[])
    parser.add_argument("--mib", type=int, default=256)
    parser.add_argument("--circuits", type=int, default=100)
    parser.add_argument("--count", type=int, default=10_000)
    given = parser.parse_args()
    what = given.what or ["rate", "memory", "connections"]
    if "rate" in what:
        print(
            "| pairs of p2pd | MB passed on | MB/s of each | CPU s of the relay | MB per CPU s "
            "| memory, MB | reserved after s |"
        )
        print("|---|---|---|---|---|---|---|")
        for pairs in (1, 4):
            rate(pairs, given.mib // pairs)
    if "memory" in what:
        print("\n| what | MB before | MB at most |\n|---|---|---|")
        memory(given.circuits)
    if "connections" in what:
        print("\n| connections | MB at the start and after each tenth | s | ms of the relay's CPU for each |")
        print("|---|---|---|---|")
        connections(given.count)


if __name__ == "__main__":
    main()
