"""Whether others run a newer release than this node: it says so once, and never fetches or asks for one.

What peers announce are claims: a release counts when a third of the others announces it, and two at least
where there are as many. A liar can make a node say something wrong, and no more.
"""

import asyncio
import logging
import re
from collections.abc import Collection
from typing import TYPE_CHECKING

from talkoot.peer.public_name import split_version

if TYPE_CHECKING:
    from talkoot.peer.node import Node

log = logging.getLogger("talkoot.node")

LOOK_S = 60.0
"""Between two looks at what the others announce."""

_RELEASE = re.compile(r"(\d{1,4})\.(\d{1,4})\.(\d{1,4})")


def _number(release: str) -> tuple[int, ...] | None:
    """Of a whole release; None for previews and what is none."""
    match = _RELEASE.fullmatch(release)
    return None if match is None else tuple(int(part) for part in match.groups())


def newer_release(own: str, announced: Collection[str]) -> str | None:
    """The newest release that enough of the others run, if it is newer than ours.

    `announced`: the version text of each of them.
    """
    ours = _RELEASE.match(own)
    if ours is None:
        return None
    mine = tuple(int(part) for part in ours.groups())
    newer = sorted(
        (number for text in announced if (number := _number(split_version(text)[0])) and number > mine),
        reverse=True,
    )
    needed = max(min(2, len(announced)), -(-len(announced) // 3))
    if not newer or len(newer) < needed:
        return None
    return ".".join(map(str, newer[needed - 1]))


def announced_to(node: "Node") -> list[str]:
    """The version texts of the others."""
    if node.swarming is None:
        return []
    return [seen.record.version for seen in node.swarming.view.others.values()]


async def tell_of_releases(node: "Node", own: str) -> None:
    """Log a newer release once, until cancelled."""
    told = None
    while True:
        await asyncio.sleep(LOOK_S)
        found = newer_release(own, announced_to(node))
        if found is not None and found != told:
            told = found
            log.warning("others run talkoot %s, this is %s: update when it suits you", found, own)
