"""`talkoot demo --chaos`: real daemons under real faults at random times, and what became of them.

Every peer has a p2pd and a trainer of its own; with root rights also a network namespace and a small disk.
All traffic stays on loopback or in those namespaces, and nothing is left at the end.
"""

import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from statistics import median

from talkoot.cli.demo_chaos_faults import Trouble, possible_kinds, small_disks
from talkoot.cli.demo_chaos_network import Cables
from talkoot.cli.demo_chaos_plan import KINDS, Schedule
from talkoot.cli.demo_chaos_report import (
    ChaosReport,
    Rate,
    Struck,
    faults_by_kind,
    ratio,
    summary_of_kills,
    times_back,
)
from talkoot.cli.demo_leftovers import remove_leftovers
from talkoot.cli.demo_node import TALKOOT, DemoNode
from talkoot.cli.demo_screen import Screen
from talkoot.cli.demo_swarm import Demo, DemoOptions, working
from talkoot.cli.words import duration

POLL_S = 0.5
"""Pause between two looks, as in the plain demo: daemons say how they are only when asked."""
RETURN_LIMIT_S = 90.0
"""How long after the last fault every peer must have been counted in a round again."""
LAST_SHOWN = 5


def run_chaos(
    options: DemoOptions, folder: Path, screen: Screen, program: Sequence[str] = TALKOOT
) -> ChaosReport:
    """Run it; no process, namespace or mount of it is left, whatever happens; if it is killed, no process.

    Raises CommandError (the swarm did not start), OSError, KeyboardInterrupt.
    """
    for what in remove_leftovers():
        screen.say(f"Removed {what}, which a demo that was killed had left behind.")
    kinds, left_out = possible_kinds()
    for kind, why in left_out.items():
        screen.say(f"Left out: {kind} ({KINDS[kind].words}): {why}.")
    with ExitStack() as stack:
        network = any(KINDS[kind].need == "network" for kind in kinds)
        cables = stack.enter_context(Cables(options.peers)) if network else None
        places = [cables.place(index) for index in range(options.peers)] if cables is not None else ()
        run = ChaosRun(Demo(options, folder, program, places), options, kinds, left_out, cables)
        if "disk" in kinds:
            stack.enter_context(small_disks([node.state_dir for node in run.demo.nodes]))
        try:
            run.demo.start(screen)
            run.train(screen)
        finally:
            run.take_back()
            run.demo.stop(screen)
        return run.report()


class ChaosRun:
    """A started demo, first without faults, then with."""

    def __init__(
        self,
        demo: Demo,
        options: DemoOptions,
        kinds: list[str],
        left_out: dict[str, str],
        cables: Cables | None,
    ) -> None:
        assert options.chaos is not None
        self.demo = demo
        self._options, self._chaos = options, options.chaos
        self._kinds, self._left_out = kinds, left_out
        self._cables = cables
        self._troubles: list[Trouble] = []
        """All faults so far."""
        self._waiting: dict[int, tuple[Trouble, int]] = {}
        """Who was not counted since its fault: peer -> (fault, first round that counts)."""
        self._back: dict[Trouble, float] = {}
        self._exited: list[str] = []
        self._began = 0.0
        self._seconds = 0.0
        self._before = self._under = Rate(steps=0, made=0, seconds=0)
        self._counts: list[tuple[float, float, float]] = []
        """(when, tokens counted, steps made), noted whenever a round had counted more tokens."""
        self._counted = 0

    # -- the course ----------------------------------------------------------------------------------

    def train(self, screen: Screen) -> None:
        """Watch without faults, then with; at the end until everybody is back."""
        total_s = self._options.minutes * 60
        quiet = self._chaos.baseline_minutes
        quiet_s = total_s / 5 if quiet is None else quiet * 60
        screen.say(f"All {len(self.demo.nodes)} peers train.")
        if quiet_s > 0:
            screen.say(f"{duration(quiet_s)} without faults, to compare with.")
            self._before = self._watch(screen, quiet_s, None)
        self._began = time.monotonic()
        schedule = Schedule(
            seed=self._options.seed,
            gap_s=self._chaos.gap_s,
            kinds=self._kinds,
            peers=len(self.demo.nodes),
            now=self._began,
        )
        screen.say(f"{duration(total_s)} with faults, one every {self._chaos.gap_s:g} s on average.")
        self._under = self._watch(screen, total_s, schedule)
        self._seconds = time.monotonic() - self._began
        screen.say("No more faults; waiting until everybody is counted in a round again.")
        deadline = time.monotonic() + RETURN_LIMIT_S
        while (self._open or self._waiting) and time.monotonic() < deadline:
            self._look(screen, "Coming back")

    def _watch(self, screen: Screen, seconds: float, schedule: Schedule | None) -> Rate:
        """So many seconds of training; returns what was counted, from one round's end to another's."""
        began, first = time.monotonic(), max(0, len(self._counts) - 1)
        while (now := time.monotonic()) < began + seconds:
            if schedule is not None:
                self._strike(screen, schedule, now)
            self._look(screen, f"{duration(began + seconds - now)} left")
        if len(self._counts) < first + 2:
            return Rate(steps=0, made=0, seconds=0)
        (then, tokens, made), (now, all_tokens, all_made) = self._counts[first], self._counts[-1]
        steps = (all_tokens - tokens) / self.demo.tokens_per_step
        return Rate(steps=steps, made=all_made - made, seconds=now - then)

    def _look(self, screen: Screen, headline: str) -> None:
        """One look at everybody, and what is due."""
        now = time.monotonic()
        self.demo.poll()
        self.demo.poll_rounds(now)
        self._count(now)
        for trouble in self._open:
            if trouble.step(now):
                self._waiting[trouble.index] = (trouble, self.demo.watch.next_round)
                self.demo.watch.peers[trouble.index].restarted()
        self._note_who_is_back(now)
        self._note_who_ended(screen)
        watch = self.demo.watch
        digests = "DIFFERENT" if watch.different_rounds else "equal"
        words = (
            f"{headline}, {watch.rounds_committed} rounds, digests {digests}, {len(self._troubles)} faults"
        )
        last = [self._fault_words(trouble) for trouble in self._troubles[-LAST_SHOWN:]]
        screen.show("\n".join([words, *last]), self.demo.nodes, watch)
        time.sleep(POLL_S)

    def _count(self, now: float) -> None:
        tokens = self._tokens
        if tokens > self._counted > 0:
            made = self.demo.watch.mean("steps_total") * len(self.demo.nodes)
            self._counts.append((now, tokens, made))
        self._counted = tokens

    def _strike(self, screen: Screen, schedule: Schedule, now: float) -> None:
        busy = {trouble.index for trouble in self._open}
        busy |= {index for index, node in enumerate(self.demo.nodes) if not working(node)}
        drawn = schedule.due(now, busy)
        if drawn is None:
            return
        kind, index, lasts_s = drawn
        node = self.demo.nodes[index]
        self.demo.watch.see_rounds(index, node.rounds())
        self._waiting.pop(index, None)
        trouble = Trouble(kind, node, index, lasts_s, self._cables)
        self._troubles.append(trouble)
        screen.say(f"{now - self._began:7.1f} s  {self._fault_words(trouble)}")

    @property
    def _open(self) -> list[Trouble]:
        return [trouble for trouble in self._troubles if not trouble.over]

    def _fault_words(self, trouble: Trouble) -> str:
        state = "" if trouble.over else "  (now)"
        back = self._back.get(trouble)
        after = "" if back is None else f"; counted again after {back:.0f} s"
        return f"{trouble.node.name}  {trouble.kind}: {KINDS[trouble.kind].words}{after}{state}"

    # -- what is noticed -----------------------------------------------------------------------------

    def _note_who_is_back(self, now: float) -> None:
        for index, (trouble, since) in list(self._waiting.items()):
            if self.demo.watch.counting(index, since=since) is not None:
                self._back[trouble] = now - trouble.began
                del self._waiting[index]

    def _note_who_ended(self, screen: Screen) -> None:
        """Who ended without being killed is started again, and told of."""
        meant = {trouble.index for trouble in self._open if trouble.kind == "kill"}
        for index, node in enumerate(self.demo.nodes):
            if node.exit_code is not None and index not in meant:
                self._tell_exit(node, screen)
                node.start()

    def _tell_exit(self, node: DemoNode, screen: Screen) -> None:
        told = f"{node.name} (exit code {node.exit_code}): {node.last_words()}"
        screen.say("EXITED: " + told)
        self._exited.append(told)

    @property
    def _tokens(self) -> int:
        """Tokens counted in rounds so far."""
        return max((int(entry.get("tokens") or 0) for entry in self.demo.watch.rounds.values()), default=0)

    # -- the end -------------------------------------------------------------------------------------

    def take_back(self) -> None:
        """Undo what is left of the faults."""
        for trouble in self._troubles:
            trouble.take_back()

    def report(self) -> ChaosReport:
        """The summary. Call it when all daemons have ended and the state directories are still there."""
        from talkoot.cli.demo_chaos_verify import states_that_differ

        watch, nodes = self.demo.watch, self.demo.nodes
        missing = {nodes[index].name for index in self._waiting} | {t.node.name for t in self._open}
        events = [self._event(trouble) for trouble in self._troubles]
        times = times_back(events)
        return ChaosReport(
            peers=len(nodes),
            seed=self._options.seed,
            gap_s=self._chaos.gap_s,
            seconds=round(self._seconds, 1),
            faults=faults_by_kind(events),
            left_out=self._left_out,
            rounds_committed=watch.rounds_committed,
            rounds_aborted=watch.rounds_aborted,
            digest_disagreements=watch.different_rounds,
            states_differ=states_that_differ({node.name: node.state_dir for node in nodes}),
            exited=self._exited,
            not_back=sorted(missing),
            forced=self.demo.forced,
            back_after_kill_s=summary_of_kills(times.get("kill", [])),
            back_after_s={kind: round(median(values), 1) for kind, values in times.items()},
            steps_per_s=round(self._under.per_s, 3),
            baseline_steps_per_s=round(self._before.per_s, 3) if self._before.seconds else None,
            baseline_seconds=round(self._before.seconds, 1),
            throughput_ratio=ratio(self._under.per_s, self._before.per_s),
            made_ratio=ratio(self._under.made_per_s, self._before.made_per_s),
            events=[asdict(event) for event in events],
        )

    def _event(self, trouble: Trouble) -> Struck:
        back = self._back.get(trouble)
        return Struck(
            at_s=round(trouble.began - self._began, 2),
            kind=trouble.kind,
            peer=trouble.node.name,
            lasted_s=None if trouble.ended_at is None else round(trouble.ended_at - trouble.began, 2),
            counted_after_s=None if back is None else round(back, 2),
        )
