"""`talkoot bench round`: one round of N peers on loopback, network and arithmetic, no training.

Every peer is a process with its own p2pd; the protocol, codecs and signatures are those of a swarm. The
time runs from the moment at which the first peer begins to encode until the last has decoded everything;
the certificate, the outer step, its digest and the disk come after it and are given apart.
"""

import json as json_module
import platform
import subprocess
import sys
from contextlib import ExitStack
from statistics import mean, median
from typing import IO, Any

from talkoot.averaging.rules import Rung
from talkoot.compression.codec import CodecError, get
from talkoot.peer.bench_uplink import measure as measure_uplink
from talkoot.peer.manifest import Exchange

START_TIMEOUT_S = 120.0


class _Peer:
    """A worker process and its lines of JSON."""

    def __init__(
        self, number: int, peers: int, numel: int, codec: str, aggregate_codec: str, exchange: Exchange
    ) -> None:
        command = [sys.executable, "-m", "talkoot.peer.bench_round_worker"]
        arguments = [str(number), str(peers), str(numel), codec, aggregate_codec, exchange]
        self.process = subprocess.Popen(  # noqa: S603 - ourselves
            command + arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def say(self, message: Any) -> None:
        """Send one line."""
        _pipe(self.process.stdin).write(json_module.dumps(message) + "\n")
        _pipe(self.process.stdin).flush()

    def hear(self) -> Any:
        """The next line. Raises RuntimeError when the worker has died."""
        line = _pipe(self.process.stdout).readline()
        if not line:
            raise RuntimeError(f"a peer of the benchmark died with exit code {self.process.wait()}")
        return json_module.loads(line)

    def end(self) -> None:
        """Stop it and wait."""
        _pipe(self.process.stdin).close()
        try:
            self.process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def _pipe(pipe: IO[str] | None) -> IO[str]:
    assert pipe is not None
    return pipe


def measure(
    *,
    peers: int,
    numel: int,
    codec: str,
    rounds: int,
    exchange: Exchange = "dense",
    aggregate_codec: str | None = None,
) -> dict[str, Any]:
    """Run the benchmark; returns its figures. Raises RuntimeError when a peer fails, CodecError."""
    back = aggregate_codec or _codec_back(codec)
    for name in (codec, back):
        get(name)
    with ExitStack() as stack:
        workers = []
        for number in range(peers):
            worker = _Peer(number, peers, numel, codec, back, exchange)
            stack.callback(worker.end)
            workers.append(worker)
        who = [worker.hear() for worker in workers]
        for worker in workers:
            worker.say(who)
        for worker in workers:
            assert worker.hear() == "connected"
        results = []
        for number in range(rounds + 1):  # the first one warms up
            for worker in workers:
                worker.say(number)
            results.append([worker.hear() for worker in workers])
    return _summary(results[1:], peers=peers, numel=numel, rung=(codec, back), exchange=exchange)


def _codec_back(codec: str) -> str:
    """The codec of aggregates where none is given: the same, unless it needs error feedback."""
    return "lloyd4" if codec.startswith(("sign", "topk")) else codec


def lower_bound(*, peers: int, numel: int, rung: Rung, exchange: Exchange = "dense") -> float:
    """Bytes that each peer sends at least, when all send equally much: (n-1)/n of an encoded vector each way
    in an all-reduce (Patarasuk and Yuan 2009), n-1 where everyone fetches every contribution."""
    there, back = (get(name).encoded_size(numel) for name in rung)
    if exchange == "sparse":
        return (peers - 1) * there
    return (peers - 1) / peers * (there + back)


def _summary(
    results: list[list[dict[str, Any]]], *, peers: int, numel: int, rung: Rung, exchange: Exchange
) -> dict[str, Any]:
    seconds = [max(r["decoded"] for r in row) - min(r["began"] for r in row) for row in results]
    whole = [max(r["committed"] for r in row) - min(r["began"] for r in row) for row in results]
    sent = max(r["bytes_sent"] for row in results for r in row)
    at_least = lower_bound(peers=peers, numel=numel, rung=rung, exchange=exchange)
    return {
        "peers": peers,
        "numel": numel,
        "codec": rung[0],
        "aggregate_codec": rung[1] if exchange == "dense" else None,
        "exchange": exchange,
        "rounds": len(results),
        "seconds_median": round(median(seconds), 4),
        "seconds_min": round(min(seconds), 4),
        "seconds_max": round(max(seconds), 4),
        "seconds_to_certificate_median": round(median(whole), 4),
        "seconds_apply_median": round(median(r["apply"] for row in results for r in row), 4),
        "bytes_sent_per_peer": sent,
        "bytes_sent_mean": round(mean(r["bytes_sent"] for row in results for r in row)),
        "ratio_to_lower_bound": round(sent / at_least, 4),
        "rel_l2_error": round(max(r["error"] for row in results for r in row if r["error"] is not None), 6),
        "digests_equal": all(len({r["digest"] for r in row}) == 1 for row in results),
        "attempts": max(r["attempts"] for row in results for r in row),
        "cpu_seconds_per_round": round(sum(r["cpu"] for row in results for r in row) / len(results), 3),
        "machine": f"{platform.machine()}, Python {platform.python_version()}",
    }


def main(
    *,
    peers: int,
    numel: int,
    codec: str,
    aggregate_codec: str | None,
    rounds: int,
    exchange: Exchange,
    json: bool,
) -> int:
    """Print the figures; returns the exit code."""
    try:
        figures = measure(
            peers=peers,
            numel=numel,
            codec=codec,
            aggregate_codec=aggregate_codec,
            rounds=rounds,
            exchange=exchange,
        )
        if exchange == "sparse":
            uplink = measure_uplink(peers=peers, numel=numel, codec=codec)
            figures |= {f"slow_uplink_{name}": value for name, value in uplink.items()}
    except (RuntimeError, CodecError) as error:
        sys.stderr.write(f"talkoot: {error}\n")
        return 2 if isinstance(error, CodecError) else 1
    if json:
        sys.stdout.write(json_module.dumps(figures, indent=2) + "\n")
    else:
        for name, value in figures.items():
            sys.stdout.write(f"{name:42} {value}\n")
    return 0 if figures["digests_equal"] else 1
