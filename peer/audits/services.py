"""How a node audits: its proofs and its auditor, put together from what it has."""

import asyncio
from typing import TYPE_CHECKING

from talkoot.averaging.rules import Rules
from talkoot.peer.audits.auditor import Auditor
from talkoot.peer.audits.proofs import Proofs
from talkoot.peer.holdings import Holdings

if TYPE_CHECKING:
    from talkoot.peer.node import Node


def proofs_of(node: "Node") -> Proofs:
    """What a node proves and is told. Registers the protocol; a proof is a ban."""
    return Proofs(
        node.network,
        node.membership.swarm,
        node.gate,
        folder=node.paths.proofs,
        note=node.paths.convictions,
        proven=node.conduct.proven,
        connected=lambda: node.links.connected,
    )


async def begin_audits(node: "Node", rules: Rules, holdings: Holdings, group: asyncio.TaskGroup) -> Auditor:
    """Start both services, with what earlier processes proved."""
    await node.disk.run(node.proofs.load)
    auditor = Auditor(
        node.identity,
        node.network,
        rules,
        holdings,
        node.proofs,
        parts=node.options.audit_parts,
        busy=lambda: node.swarming is not None and node.swarming.exchanging,
        connected=lambda: node.links.connected,
        count=node.metrics.audits.inc,
    )
    node.proofs.begin(rules, holdings.ledger.round, lambda key: key in holdings.ledger.voters)
    group.create_task(node.proofs.run())
    group.create_task(auditor.run())
    return auditor
