"""`talkoot bench attacks`: the table of held-out losses under each attack, row by row."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from talkoot.averaging.robustness import sparse_problem
from talkoot.compression.codec import CodecError, get
from talkoot.dht.errors import ConfigError
from talkoot.peer import presets
from talkoot.peer.attacks.catalogue import ATTACKS, MESSAGES, NONE
from talkoot.peer.attacks.exchange import Counted, Exchange
from talkoot.peer.attacks.nodes import run_nodes
from talkoot.peer.attacks.rules import parse_rule
from talkoot.peer.attacks.swarm import MODELS, Laboratory, Setting, Training
from talkoot.peer.attacks.watching import Watch

Row = dict[str, Any]

AUDITED = "default"
"""Rule with which trainers are audited, as in the preset for public swarms, where the bench sends no
messages."""

BASELINE = "mean"
"""Rule of the run that all others are compared with: no attack, no liars."""

MAX_PEERS = 64
MAX_ROUNDS = 10_000
MAX_STEPS = 10_000
MAX_SEEDS = 1000
MAX_OUT_BYTES = 64 * 1024 * 1024

KEY = ("attack", "n", "f", "rule", "seed", "model", "rounds", "steps", "codec", "audits")
"""Fields that a row is known by."""

FOUND = ("detected_after", "suspected_after", "honest_suspected", "honest_left_out", "honest_banned")
"""Fields that say who was found."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """Which rows are wanted."""

    sizes: Sequence[tuple[int, int]]
    """(n, f): peers, and how many of them lie."""
    attacks: Sequence[str]
    rules: Sequence[str]
    seeds: int = 3
    rounds: int = 40
    steps: int = 10
    """Inner steps of a round."""
    model: str = "llama"
    codec: str = "int8"

    def __post_init__(self) -> None:
        """Raises ConfigError, in one line, for what cannot be run."""
        for n, f in self.sizes:
            _require(2 <= n <= MAX_PEERS, f"--n must be 2 to {MAX_PEERS}, not {n}")
            _require(0 <= f < n - 1, f"--f must be 0 to {n - 2} with --n {n}, not {f}")
        for name in self.attacks:
            known = [NONE, *ATTACKS, *MESSAGES]
            _require(name in known, f"--attack {name} is unknown; known: {', '.join(known)}")
        for name, value, limit in (
            ("seeds", self.seeds, MAX_SEEDS),
            ("rounds", self.rounds, MAX_ROUNDS),
            ("steps", self.steps, MAX_STEPS),
        ):
            _require(1 <= value <= limit, f"--{name} must be 1 to {limit}, not {value}")
        _require(self.model in MODELS, f"--model must be {' or '.join(MODELS)}, not {self.model}")
        try:
            get(self.codec)
        except CodecError as error:
            raise ConfigError(f"--codec {self.codec}: {error}") from error
        for rule in self.rules:
            problem = sparse_problem(parse_rule(rule), exchange="dense", codec=self.codec)
            _require(problem is None, f"--rule {rule}: {problem}")

    def wanted(self) -> Iterator[Row]:
        """What the wanted rows are known by, each once; the baseline of a size and a seed comes first."""
        done: list[Row] = []
        for n, f in self.sizes:
            for seed in range(self.seeds):
                pairs = [
                    (NONE, BASELINE),
                    *((attack, rule) for attack in self.attacks for rule in self.rules),
                ]
                for attack, rule in pairs:
                    audits = rule == AUDITED and attack not in MESSAGES
                    known = {"attack": attack, "n": n, "f": f, "rule": rule, "seed": seed}
                    key = {**known, **self._rest, "audits": audits}
                    if key not in done:
                        done.append(key)
                        yield key

    @property
    def _rest(self) -> Row:
        return {"model": self.model, "rounds": self.rounds, "steps": self.steps, "codec": self.codec}


def measure(plan: Plan, out: Path | None, laboratory: Laboratory | None = None) -> Iterator[Row]:
    """Each wanted row as it is finished; rows that the file `out` has are not run again, others join them.

    Raises ConfigError when `out` is no such file or the data cannot be read, OSError when it cannot be
    written.
    """
    rows = load(out) if out is not None else []
    baselines: dict[tuple[int, int], float] = {}
    for key in plan.wanted():
        row = next((row for row in rows if all(row[name] == key[name] for name in KEY)), None)
        if row is None:
            laboratory = laboratory or Laboratory()
            row = _run(laboratory, key, baselines.get((key["n"], key["seed"])))
            rows.append(row)
            if out is not None:
                save(out, rows)
        baselines.setdefault((row["n"], row["seed"]), row["loss_clean"])
        yield row


def _run(laboratory: Laboratory, key: Row, clean: float | None) -> Row:
    setting = Setting(
        model=key["model"],
        workers=key["n"],
        liars=key["f"],
        rounds=key["rounds"],
        inner_steps=key["steps"],
        codec=key["codec"],
        robustness=parse_rule(key["rule"]),
        seed=key["seed"],
        audits=presets.make("public", name="bench").audits if key["audits"] else None,
    )
    if key["attack"] in MESSAGES:
        return _run_nodes(laboratory, key, setting, clean)
    attack = ATTACKS.get(key["attack"])
    training, seen = Training(laboratory, setting, attack), _Seen(setting, attack is not None)
    for counted in training.rounds():
        seen.see(counted, training.exchange)
    loss = training.loss()
    return {
        **key,
        "loss": loss,
        "loss_clean": loss if clean is None else clean,
        "detected_after": seen.after(seen.out if key["audits"] else {}),
        "suspected_after": seen.after(seen.watch.suspected),
        "honest_suspected": seen.honest(seen.watch.suspected),
        "honest_left_out": seen.honest(seen.out) if key["audits"] else None,
        "honest_banned": seen.honest(seen.banned) if key["audits"] else None,
    }


class _Seen:
    """What histories and audits say of the peers of a run, and since which round, counted from 1."""

    def __init__(self, setting: Setting, attacked: bool) -> None:
        self._liars = range(setting.liars if attacked else 0)
        self.watch = Watch()
        self.out: dict[int, int] = {}
        """First left out or banned by what audits say."""
        self.banned: dict[int, int] = {}

    def see(self, counted: Counted, exchange: Exchange) -> None:
        """A round is over."""
        self.watch.see(counted)
        for known, peers in ((self.out, exchange.left_out), (self.banned, exchange.banned)):
            for peer in peers:
                known.setdefault(peer, self.watch.rounds)

    def after(self, since: Mapping[int, int]) -> int | None:
        """The round in which this was known of the last liar; None: not of all of them."""
        rounds = [round_ for peer, round_ in since.items() if peer in self._liars]
        return max(rounds) if rounds and len(rounds) == len(self._liars) else None

    def honest(self, since: Mapping[int, int]) -> int:
        """How many honest peers are among them."""
        return sum(1 for peer in since if peer not in self._liars)


def _run_nodes(laboratory: Laboratory, key: Row, setting: Setting, clean: float | None) -> Row:
    run = run_nodes(laboratory, setting, key["attack"])
    loss = run.loss()
    return {
        **key,
        "loss": loss,
        "loss_clean": loss if clean is None else clean,
        "detected_after": run.detected_after,
        "suspected_after": run.suspected_after,
        "honest_suspected": run.honest_suspected,
        "honest_left_out": None,
        "honest_banned": len(run.honest_banned),
    }


def load(path: Path) -> list[Row]:
    """Rows of an earlier run; none where there is no file. Raises ConfigError."""
    try:
        if not path.exists():
            return []
        if path.stat().st_size > MAX_OUT_BYTES:
            raise ConfigError(f"{path} is larger than {MAX_OUT_BYTES} bytes; give another file to --out")
        rows = json.loads(path.read_bytes())
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path} is no JSON; give another file to --out") from error
    if not isinstance(rows, list) or not all(_is_row(row) for row in rows):
        raise ConfigError(f"{path} has other rows than those of this bench; give another file to --out")
    return rows


def _is_row(row: object) -> bool:
    if not isinstance(row, dict) or not {*KEY, *FOUND} <= set(row):
        return False
    return all(isinstance(row.get(name), float) for name in ("loss", "loss_clean"))


def save(path: Path, rows: Sequence[Row]) -> None:
    """Write all rows: a new file, then put in the old one's place. Raises OSError."""
    fresh = path.with_name(path.name + ".new")
    fresh.write_text(json.dumps(list(rows), indent=1) + "\n")
    fresh.replace(path)


def _require(condition: bool, words: str) -> None:
    if not condition:
        raise ConfigError(words)
