"""A swarm of workers that train one language model, some of which lie."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from math import inf, isfinite

import numpy as np
import torch

from talkoot.averaging.audits import Audits
from talkoot.averaging.robustness import Robustness
from talkoot.averaging.verdicts import Verdict
from talkoot.peer import presets
from talkoot.peer.attacks.auditors import Auditors
from talkoot.peer.attacks.catalogue import Attack, View
from talkoot.peer.attacks.data import Data
from talkoot.peer.attacks.exchange import Counted, Exchange, Sent, Terms
from talkoot.peer.attacks.formulas import Foresee
from talkoot.peer.judging.score import MOST_WINDOWS
from talkoot.peer.manifest import Manifest
from talkoot.peer.trainer.audit import audit
from talkoot.peer.trainer.engine import Engine, learning_rate
from talkoot.peer.trainer.layout import initial_weights
from talkoot.peer.trainer.protocol import Audited, AuditTask
from talkoot.peer.trainer.windows import Windows
from talkoot.peer.trainer.workplace import make_engine

HELD_OUT = 256
"""Windows on which the result is judged."""

LOST = 1e9
"""What a loss that is no number counts as: JSON has no infinity."""

MODELS = ("bigram", "llama")
"""A table of byte pairs with a hidden layer (33,024 parameters, 1.5 ms a step), and a Llama over bytes of one
layer (21,600 parameters, 4 to 7 ms)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Setting:
    """One run, but for the attack."""

    model: str = "bigram"
    workers: int = 8
    liars: int = 2
    """They are the first ones, so that ties go their way."""
    rounds: int = 40
    inner_steps: int = 10
    codec: str = "int8"
    robustness: Robustness
    audits: Audits | None = None
    """None: trainers are not audited."""
    seed: int = 0
    factor: float = 1.0
    """Of all pseudo-gradients: a little beside 1 makes another run of the same, since training is chaotic."""


def manifest_of(setting: Setting) -> Manifest:
    """As a swarm would have it."""
    if setting.model == "bigram":
        base, config, batch, rate = presets.make("numpy-test", name="bench"), {"hidden": 64}, 8, 1e-2
    else:
        base, batch, rate = presets.make("tiny", name="bench"), 4, 1e-2
        small = {"hidden_size": 32, "intermediate_size": 96, "num_hidden_layers": 1}
        config = base.model.config | small | {"num_attention_heads": 2, "num_key_value_heads": 2}
    return replace(
        base,
        model=replace(base.model, config=config),
        data=replace(base.data, sequence_length=32),
        inner=replace(base.inner, batch_size=batch, learning_rate=rate, warmup_steps=20, seed=setting.seed),
    )


def first_weights(setting: Setting) -> torch.Tensor:
    """What all start from."""
    return torch.from_numpy(initial_weights(manifest_of(setting)).copy())


class Laboratory:
    """Data and engines, for one run after the other."""

    def __init__(self, *, threads: int = 1, max_bytes: int | None = None) -> None:
        self.data = Data(max_bytes=max_bytes)
        self._threads = threads
        self._engines: dict[str, list[Engine]] = {}

    def workers(self, setting: Setting, theta_P: torch.Tensor) -> "list[Worker]":
        """With cold moments and these parameters. One run at a time."""
        made = self._engines.setdefault(setting.model, [])
        while len(made) < setting.workers:
            made.append(make_engine(manifest_of(setting), device="cpu", threads=self._threads))
        for engine in made:
            engine.load(theta_P.numpy())
            engine.reset()
        return [Worker(self.data, setting, engine, number) for number, engine in enumerate(made)][
            : setting.workers
        ]


class Worker:
    """One that trains, on a stretch of the data of its own."""

    def __init__(self, data: Data, setting: Setting, engine: Engine, number: int) -> None:
        self._data, self._setting, self._engine, self._number = data, setting, engine, number
        self._manifest = manifest_of(setting)
        self._window = self._manifest.data.sequence_length + 1

    @property
    def tokens_a_step(self) -> int:
        """Targets of an inner step."""
        return self._manifest.inner.batch_size * (self._window - 1)

    def train(
        self,
        theta_P: torch.Tensor,
        *,
        first: int,
        count: int,
        source: int | None = None,
        spoil: Callable[[Windows], Windows] | None = None,
    ) -> torch.Tensor:
        """The parameters after `count` inner steps from here, numbered from `first`; on `source`'s data
        instead of its own, `spoil`ed."""
        engine, setting = self._engine, self._setting
        engine.load(theta_P.numpy())
        for step in range(first, first + count):
            windows = self._data.training(
                worker=self._number if source is None else source,
                workers=setting.workers,
                seed=setting.seed,
                step=step,
                shape=(self._manifest.inner.batch_size, self._window),
            )
            with np.errstate(over="ignore", invalid="ignore"):
                engine.step(
                    windows if spoil is None else spoil(windows), learning_rate(self._manifest, step, None)
                )
        return torch.from_numpy(np.concatenate([np.array(chunk) for chunk in engine.chunks()]))

    def audit(self, task: AuditTask) -> Audited:
        """As a trainer does beside its steps, but that it takes no time."""
        task = replace(task, budget_s=inf)
        with np.errstate(over="ignore", invalid="ignore"):
            found = audit(self._engine, _HeldOut(self._data, self._window), task, lambda: False)
        return replace(found, seconds=0.0)

    def paired(
        self, theta_P: torch.Tensor, start: int, delta_P: torch.Tensor, *, seed: int, windows: int
    ) -> tuple[list[float], list[float]]:
        """Losses on held-out windows of these parameters, and of those without `delta_P` from `start` on."""
        chosen, flat = self._data.drawn(seed, windows, self._window), theta_P.numpy().copy()
        with np.errstate(over="ignore", invalid="ignore"), self._engine.elsewhere(flat):
            before = self._engine.window_losses(chosen)
            self._engine.move(start, delta_P.numpy())
            return before, self._engine.window_losses(chosen)

    def loss(self, theta_P: torch.Tensor) -> float:
        """On held-out data, nats a byte."""
        windows = self._data.held_out(HELD_OUT, self._window)
        with np.errstate(over="ignore", invalid="ignore"):
            loss = self._engine.evaluate(theta_P.numpy(), windows)
        return loss if isfinite(loss) else LOST


class _HeldOut:
    """The held-out part of the bench's data."""

    def __init__(self, data: Data, window: int) -> None:
        self._data, self._window = data, window

    def drawn(self, seed: int, count: int) -> Windows:
        """See `talkoot.peer.trainer.data.Corpus`."""
        return self._data.drawn(seed, count, self._window)


class Training:
    """One run."""

    def __init__(self, laboratory: Laboratory, setting: Setting, attack: Attack | None) -> None:
        self._setting, self._attack = setting, attack
        theta_P = first_weights(setting)
        terms = Terms(
            workers=setting.workers,
            inner_steps=setting.inner_steps,
            robustness=setting.robustness,
            codec=setting.codec,
            aggregate_codec=setting.codec,
            audits=setting.audits,
        )
        self.exchange = Exchange(terms, theta_P)
        self._workers = laboratory.workers(setting, theta_P)
        self._first_NP: dict[int, torch.Tensor] = {}
        self._noise = torch.Generator().manual_seed(setting.seed)

    def rounds(self) -> Iterator[Counted]:
        """Train; what was counted, round by round."""
        verdicts: list[Verdict] = []
        for round_ in range(self._setting.rounds):
            counted = self.exchange.round(self._contributions(round_), verdicts=verdicts)
            if self._setting.audits is not None:
                verdicts = self.auditors().verdicts(counted, self.exchange.ledger)
            yield counted

    def auditors(self, windows: int = MOST_WINDOWS) -> Auditors:
        """Those who judge what was counted, on so many windows an audit."""
        liars = frozenset(range(self._setting.liars if self._attack is not None else 0))
        return Auditors(self._workers[0].paired, self.exchange.rules, liars, windows)

    def loss(self) -> float:
        """On held-out data, nats a byte."""
        return self._workers[0].loss(self.exchange.theta_P)

    def _contributions(self, round_: int) -> list[Sent | None]:
        """Of all workers; None of those that are banned."""
        liars = self._setting.liars if self._attack is not None else 0
        out, all_of_them = self.exchange.banned, range(self._setting.workers)
        trained = {n: self._train(n, round_) for n in all_of_them[liars:] if n not in out}
        honest = {n: self._sent(delta_P) for n, delta_P in trained.items()}
        sent = self._lies([n for n in all_of_them[:liars] if n not in out], round_, honest) | honest
        return [sent.get(n) for n in all_of_them]

    def _train(self, worker: int, round_: int) -> torch.Tensor:
        """The pseudo-gradient of a worker's inner steps."""
        setting, attack = self._setting, self._attack
        lies = attack is not None and worker < setting.liars
        local_P = self._workers[worker].train(
            self.exchange.theta_P,
            first=round_ * setting.inner_steps,
            count=setting.inner_steps,
            source=0 if attack is not None and lies and attack.shares_data else worker,
            spoil=attack.spoil if attack is not None and lies else None,
        )
        return torch.mul(torch.sub(self.exchange.theta_P, local_P), setting.factor)

    def _lies(self, liars: list[int], round_: int, honest: dict[int, Sent]) -> dict[int, Sent]:
        """What these send, knowing what the honest ones send."""
        attack = self._attack
        if attack is None:
            return {}
        foreseeing = cache(lambda: self.exchange.foreseeing(honest, liars))

        def foresee(lie_P: torch.Tensor) -> torch.Tensor:
            return foreseeing()(self._sent(lie_P))

        honest_NP, lies = [sent.delta for sent in honest.values()], dict[int, Sent]()
        for worker in liars:
            lies[worker] = (
                next(iter(lies.values()))
                if attack.alike and lies
                else self._lie(attack, worker, round_, honest_NP, foresee)
            )
        return lies

    def _lie(
        self, attack: Attack, worker: int, round_: int, honest_NP: list[torch.Tensor], foresee: Foresee
    ) -> Sent:
        trained = round_ < attack.trains
        own_P = self._train(worker, round_) if trained else torch.zeros_like(self.exchange.theta_P)
        first_P = self._first_NP.setdefault(worker, own_P)
        if round_ < attack.honest_rounds:
            return self._sent(own_P)
        view = View(
            honest=honest_NP,
            own=own_P,
            first=first_P,
            round=round_,
            part=self.exchange.first_part,
            noise=self._noise,
            chunks=self.exchange.chunks,
            foresee=foresee,
        )
        sent = self._sent(attack.send(view))
        return replace(sent, tokens=attack.tokens or sent.tokens, forge=attack.forge)

    def _sent(self, delta_P: torch.Tensor) -> Sent:
        steps = self._setting.inner_steps
        finite = torch.nan_to_num(delta_P, nan=0.0, posinf=0.0, neginf=0.0)
        return Sent(delta=finite, steps=steps, tokens=steps * self._workers[0].tokens_a_step)
