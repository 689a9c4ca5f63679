"""Small values of the averaging protocol for tests, signed with toy keys."""

from collections.abc import Sequence
from typing import Any

import msgspec
from round_swarm import ToySigner, toy_verify

from talkoot.averaging.certificate import (
    Certificate,
    Contribution,
    Phase,
    Prepared,
    Signature,
    Value,
    vote_bytes,
)
from talkoot.averaging.context import Context
from talkoot.averaging.ledger import Ledger
from talkoot.averaging.rules import Rules, Timing

SWARM = b"s" * 32
PRIOR = b"p" * 32
TIMING = Timing(form_s=2.0, exchange_s=4.0, certify_s=2.0)


def peers(count: int) -> list[ToySigner]:
    """So many signers, ascending by key."""
    return sorted((ToySigner(number) for number in range(count)), key=lambda signer: signer.key)


def keys_of(signers: Sequence[ToySigner]) -> tuple[bytes, ...]:
    return tuple(sorted(signer.key for signer in signers))


def admit(key: bytes, proof: bytes) -> bytes | None:
    """A proof `token|key` admits that peer by that token."""
    token, _, owner = proof.partition(b"|")
    return token if owner == key else None


def make_rules(**changes: Any) -> Rules:
    values: dict[str, Any] = {
        "swarm": SWARM, "numel": 1000, "founders": (), "invited_vote": True, "admit": admit,
        "inner_steps": 80, "outer_learning_rate": 0.7, "outer_momentum": 0.5, "error_feedback": False,
        "max_absent_rounds": 2,
    }  # fmt: skip
    return Rules(**(values | changes))


def make_ledger(voters: Sequence[bytes], /, **changes: Any) -> Ledger:
    values: dict[str, Any] = {
        "swarm": SWARM, "arithmetic": 1, "round": 5, "voters": tuple(sorted(voters)),
        "absent": (0,) * len(voters), "global_step": 400, "tokens": 10_000, "reference_steps": 80,
        "codec": "int8", "aggregate_codec": "int8",
    }  # fmt: skip
    return Ledger(**(values | changes))


def make_contribution(signer: ToySigner, **changes: Any) -> Contribution:
    values: dict[str, Any] = {
        "swarm": SWARM, "round": 5, "prior": PRIOR, "key": signer.key, "root": b"r" * 32, "norm2": 4.0,
        "steps": 80, "tokens": 8000, "numel": 1000, "codec": "int8",
    }  # fmt: skip
    header = Contribution(**(values | changes))
    return msgspec.structs.replace(header, signature=signer.sign(header.unsigned()))


def make_value(present: Sequence[ToySigner], voters: Sequence[ToySigner], /, **changes: Any) -> Value:
    signers = sorted(present, key=lambda signer: signer.key)
    values: dict[str, Any] = {
        "swarm": SWARM, "round": 5, "prior": PRIOR, "cut": (), "present": keys_of(signers), "parts": (),
        "digest": b"d" * 32, "voters": keys_of(voters),
    }  # fmt: skip
    values |= changes
    if not values["cut"]:
        same = {"round": values["round"], "prior": values["prior"], "swarm": values["swarm"]}
        values["cut"] = tuple(make_contribution(signer, **same) for signer in signers)
    return Value(**values)


def sign_votes(
    value: Value, by: Sequence[ToySigner], *, attempt: int = 0, phase: Phase = "commit", weak: bool = False
) -> tuple[Signature, ...]:
    message = vote_bytes(value, value.hash, attempt, phase, weak)
    return tuple(Signature(signer.key, signer.sign(message)) for signer in by)


def certify(value: Value, by: Sequence[ToySigner], *, attempt: int = 0, weak: bool = False) -> Certificate:
    return Certificate(
        value=value, attempt=attempt, weak=weak, votes=sign_votes(value, by, attempt=attempt, weak=weak)
    )


def prepared(value: Value, by: Sequence[ToySigner], *, attempt: int = 0, weak: bool = False) -> Prepared:
    votes = sign_votes(value, by, attempt=attempt, phase="prepare", weak=weak)
    return Prepared(value=value, attempt=attempt, weak=weak, votes=votes)


def make_context(signer: ToySigner, voters: Sequence[ToySigner], **changes: Any) -> Context:
    values: dict[str, Any] = {
        "ledger": make_ledger(keys_of(voters)), "prior": PRIOR, "rules": make_rules(), "timing": TIMING,
        "signer": signer, "verify": toy_verify,
    }  # fmt: skip
    return Context(**(values | changes))
