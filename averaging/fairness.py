"""Whether a cut counts what it ought to: voters look before they go on with it.

The leader fixes what counts. One that lies could count nobody but itself, and no robust rule says anything
against a group of one: of what had arrived it would choose, or it would call the others when they have hardly
begun their steps and nothing of theirs can arrive. So a voter goes on only with a cut that has

* two thirds of the voters' contributions that it holds itself, as a reducer. Voters who withhold slices from
  others, which are less than a third, make no honest cut look otherwise;
* half of those members that are voters and were counted in the last round. That only for a time, twice as
  long as the last round took: after it they have made their steps, or do not train any more.
"""

from collections.abc import Set as AbstractSet

Peers = AbstractSet[bytes]


def is_fair(cut: Peers, *, held: Peers, usual: Peers) -> bool:
    """See the module: `held` of these voters we hold all there is, `usual` are expected to have something."""
    return 3 * len(held & cut) >= 2 * len(held) and 2 * len(usual & cut) >= len(usual)
