"""How a node judges, put together from what it has, and how it tells what audits have come to."""

import asyncio
import logging
from typing import TYPE_CHECKING, Any

from talkoot.averaging.certificate import Value
from talkoot.averaging.ledger import Ledger
from talkoot.averaging.rules import Rules
from talkoot.dht.identity import peer_id_of
from talkoot.peer.holdings import Holdings
from talkoot.peer.judging.judge import Judge
from talkoot.peer.judging.results import result_of
from talkoot.peer.judging.standing import news_of, verdicts_on

if TYPE_CHECKING:
    from talkoot.peer.node import Node

log = logging.getLogger("talkoot.audit")


def begin_judging(node: "Node", rules: Rules, holdings: Holdings, group: asyncio.TaskGroup) -> Judge | None:
    """Start the service, where there are audits of trainers and this node has a trainer to measure with."""
    if rules.audits is None or node.options.observes:
        return None
    assert node.contributor is not None
    assert node.runner.watcher is not None

    def count(result: str, seconds: float) -> None:
        node.metrics.trainer_audits.inc(result)
        node.metrics.trainer_audit_time.inc(seconds)

    judge = Judge(
        node.identity,
        rules,
        holdings,
        node.contributor,
        node.paths.trainer,
        busy=lambda: node.swarming is None or node.swarming.exchanging or node.disk.fault is not None,
        count=count,
        highest=node.runner.watcher.highest,
    )
    group.create_task(judge.run())
    return judge


def tell_news(node: "Node", value: Value, before: Ledger | None, after: Ledger) -> Ledger:
    """Log and count what a round has changed; returns the ledger to compare the next one with."""
    own = node.identity.key
    for verdict in verdicts_on(own, value):
        node.metrics.own_verdicts.inc(result_of(verdict.score))
    for line in news_of(value, before, after, own) if before is not None else ():
        log.warning("%s", line)
    return after


def judging_of(node: "Node") -> dict[str, Any] | None:
    """What this node does about it, for its status; None where it does nothing."""
    judge = node.runner.judge
    if judge is None:
        return None
    last = judge.last
    return {
        "spent_s": round(judge.purse.spent_s, 3),
        "earned_s": round(judge.purse.earned_s, 3),
        "last": None
        if last is None
        else {
            "peer_id": peer_id_of(last.subject),
            "round": last.round,
            "score": last.score,
            "windows": last.windows,
            "seconds": round(last.seconds, 3),
        },
    }
