"""The swarm of the demo: starts its peers, watches them, kills one if asked to, and ends them."""

import secrets
import socket
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from talkoot.cli.demo_kill import Act, KillPlan
from talkoot.cli.demo_node import HERE, DemoNode, Place, stop_all
from talkoot.cli.demo_report import Losses, Report, make_report
from talkoot.cli.demo_screen import Screen, state_words
from talkoot.cli.demo_watch import Watch
from talkoot.cli.errors import CommandError
from talkoot.cli.outer import read_parameters
from talkoot.cli.words import duration
from talkoot.dht.errors import ConfigError
from talkoot.peer import manifest_file

START_UP_LIMIT_S = 300.0
"""Longest start-up; a loaded two-core machine needs about 40 s for four peers."""
POLL_S = 0.5
"""Pause between two looks: a daemon, a process of its own, says how it is only when asked."""
ARMED_POLL_S = 0.1
"""An exchange of the tiny preset is short: the victim's state is looked at often."""
ROUNDS_EVERY_S = 2.0
RETURN_LIMIT_S = 60.0
"""How much longer the demo lasts at most until a killed peer is counted in a round again."""

WORKING = ("training", "exchanging")


@dataclass(frozen=True, kw_only=True, slots=True)
class DemoOptions:
    """Options of `talkoot demo`."""

    peers: int = 4
    minutes: float = 3.0
    """Counted from the moment when all peers train."""
    seed: int = 0
    kill: bool = False
    json_file: Path | None = None
    preset: str = "tiny"
    folder: Path | None = None
    """Where everything goes; None: a new temporary folder, which is left for the user to look at."""
    device: str = "cpu"
    chaos: "ChaosOptions | None" = None
    """Faults at random times instead of a comparison with a single worker."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ChaosOptions:
    """What `--chaos` adds."""

    gap_s: float = 15.0
    """Mean time between two faults."""
    baseline_minutes: float | None = None
    """Time without faults before, to compare with; None: a fifth of `minutes`; 0: no comparison."""


def _free_port() -> int:
    """A port that a restarted peer can take again: below those that systems give to outgoing connections."""
    while True:
        port = 20_000 + secrets.randbelow(12_000)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


class Demo:
    """The peers and what was seen of them. Call `start`, `train`, then `stop` in any case."""

    def __init__(
        self, options: DemoOptions, folder: Path, program: Sequence[str], places: Sequence[Place] = ()
    ) -> None:
        """`places`: one for each peer; none: all on loopback."""
        self.nodes = [
            DemoNode(f"peer-{index}", folder, program, place)
            for index, place in enumerate(places or [HERE] * options.peers)
        ]
        self.watch = Watch(options.peers)
        self.initial: Path | None = None
        self.threads = max(1, (psutil.cpu_count() or 1) // options.peers)
        self._options = options
        self.folder = folder
        self._kill = KillPlan() if options.kill else None
        self.seconds = 0.0
        self._rounds_at = 0.0
        self.exited: list[str] = []
        self.forced: list[str] = []

    @property
    def tokens_per_step(self) -> int:
        """Tokens of one inner step of a peer."""
        manifest, _ = manifest_file.load(self.folder / manifest_file.FILE_NAME)
        return manifest.inner.batch_size * manifest.data.sequence_length

    @property
    def _victim(self) -> int:
        return len(self.nodes) - 1

    def start(self, screen: Screen) -> None:
        """Start all peers and wait until all train. Raises CommandError when they do not in time."""
        self._start_node(self.nodes[0], str(self.folder / manifest_file.FILE_NAME))
        invites: list[str] = []
        deadline = time.monotonic() + START_UP_LIMIT_S
        while len(invites) < len(self.nodes) - 1:
            invite = self.nodes[0].invite() if self.nodes[0].poll() else None
            if invite is None:
                self._wait(screen, deadline, "Start-up: waiting for peer-0 to found the swarm")
            else:
                invites.append(invite)
        for node, invite in zip(self.nodes[1:], invites, strict=True):
            self._start_node(node, "--join", invite)
        while not all(working(node) for node in self.nodes):
            waiting = [f"{node.name} {state_words(node)}" for node in self.nodes if not working(node)]
            self._wait(screen, deadline, "Start-up: waiting for " + ", ".join(waiting))
        self.initial = _copy_initial(self.nodes[0], self.folder / "initial.f32")

    def _start_node(self, node: DemoNode, *how: str) -> None:
        options = ("--device", self._options.device, "--threads", str(self.threads))
        node.start([*how, "--port", str(_free_port()), *node.place.arguments, *options])

    def _wait(self, screen: Screen, deadline: float, words: str) -> None:
        """One poll of the start-up. Raises CommandError when a peer ended or time is up."""
        self.poll()
        screen.show(words, self.nodes, self.watch)
        for node in self.nodes:
            if node.exit_code is not None:
                raise CommandError(f"{node.name} ended during start-up: {node.last_words()}")
        if time.monotonic() > deadline:
            raise CommandError(f"not everybody trains after {START_UP_LIMIT_S:.0f} s; logs: {self.folder}")
        time.sleep(POLL_S)

    def train(self, screen: Screen) -> None:
        """Watch until the time is up; kill and restart one peer if asked to."""
        began = time.monotonic()
        total_s = self._options.minutes * 60
        screen.say(f"All {len(self.nodes)} peers train; the {duration(total_s)} begin now.")
        while (now := time.monotonic()) < began + total_s or self._waits(now - began - total_s):
            self.poll()
            self.poll_rounds(now)
            screen.show(self._headline(began + total_s - now), self.nodes, self.watch)
            share = (now - began) / total_s
            if self._kill is not None and self._kill.armed(share, self.watch.rounds_committed):
                self._stalk(screen, began, total_s)
            else:
                self._apply(screen, self._decide(now, share))
                time.sleep(POLL_S if now > began + total_s else min(POLL_S, began + total_s - now))
        self.seconds = time.monotonic() - began
        self.poll()
        self.poll_rounds(float("inf"))

    def _waits(self, late_s: float) -> bool:
        """Whether the end, `late_s` seconds ago, waits for a killed peer."""
        return self._kill is not None and self._kill.pending and late_s < RETURN_LIMIT_S

    def _stalk(self, screen: Screen, began: float, total_s: float) -> None:
        """Look at the victim alone, often, for as long as one ordinary poll would take."""
        node = self.nodes[self._victim]
        until = time.monotonic() + POLL_S
        while (now := time.monotonic()) < until:
            node.poll()
            act = self._decide(now, (now - began) / total_s)
            self._apply(screen, act)
            if act is Act.KILL:
                return
            time.sleep(ARMED_POLL_S)

    def _decide(self, now: float, share: float) -> Act:
        if self._kill is None:
            return Act.NOTHING
        state = str((self.nodes[self._victim].status or {}).get("state", "starting"))
        return self._kill.step(now=now, share=share, rounds=self.watch.rounds_committed, state=state)

    def _apply(self, screen: Screen, act: Act) -> None:
        node = self.nodes[self._victim]
        if act is Act.KILL:
            assert self._kill is not None
            screen.say(
                f"Killing {node.name} (SIGKILL to all its processes) while {self._kill.killed_in_state}."
            )
            self.watch.see_rounds(self._victim, node.rounds())
            node.kill()
        elif act is Act.RESTART:
            assert self._kill is not None
            screen.say(f"Starting {node.name} again.")
            self.poll_rounds(float("inf"))
            self._kill.next_round = self.watch.next_round
            self.watch.peers[self._victim].restarted()
            node.start()

    def poll(self) -> None:
        """Ask all peers for their status."""
        for node, record in zip(self.nodes, self.watch.peers, strict=True):
            status = node.poll()
            if status is not None:
                record.see(status)

    def poll_rounds(self, now: float) -> None:
        """Ask all peers for their rounds, if that was not done just now."""
        if now - self._rounds_at < ROUNDS_EVERY_S:
            return
        self._rounds_at = time.monotonic()
        for index, node in enumerate(self.nodes):
            self.watch.see_rounds(index, node.rounds())
        plan = self._kill
        if plan is not None and plan.pending and plan.next_round is not None:
            plan.counted_in_round = self.watch.counting(self._victim, since=plan.next_round)

    def _headline(self, left_s: float) -> str:
        watch = self.watch
        digests = "equal" if watch.digests_equal else "none yet" if not watch.digests else "DIFFERENT"
        return (
            f"{duration(max(0.0, left_s))} left, {watch.rounds_committed} rounds committed, digests {digests}"
        )

    def stop(self, screen: Screen) -> None:
        """End every process of the demo."""
        self.exited = [
            node.name for node in self.nodes if node.exit_code is not None and not self.is_down(node)
        ]
        if any(node.running for node in self.nodes):
            screen.say("Stopping the peers.")
        self.forced = stop_all(self.nodes)

    def is_down(self, node: DemoNode) -> bool:
        """Whether the node is down because the demo killed it and did not start it again yet."""
        plan = self._kill
        is_victim = node is self.nodes[self._victim]
        return is_victim and plan is not None and plan.killed_at is not None and plan.restarted_at is None

    def report(self, losses: Losses) -> Report:
        """The summary, with the losses of the comparison."""
        return make_report(
            self.watch,
            losses,
            seconds=self.seconds,
            kill=self._kill,
            victim=self.nodes[self._victim].name,
            exited=self.exited,
            forced=self.forced,
        )


def working(node: DemoNode) -> bool:
    return node.status is not None and node.status.get("state") in WORKING


def _copy_initial(founder: DemoNode, copy: Path) -> Path | None:
    """Keep the initial parameters, if they are still the committed ones."""
    try:
        head, theta = read_parameters(founder.state_dir)
    except (ConfigError, CommandError):
        return None
    if head.round != 0:
        return None
    theta.tofile(copy)
    return copy
