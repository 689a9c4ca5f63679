"""How this node is reached: which relays it is told of, whether it uses any, and what follows from it."""

from talkoot.dht.network import Network
from talkoot.dht.relays import by_relay
from talkoot.peer.belonging import Membership
from talkoot.peer.manifest import Manifest
from talkoot.peer.options import RunOptions


class Reach:
    """Of one life of a node."""

    def __init__(self, network: Network, options: RunOptions, membership: Membership) -> None:
        self._network = network
        self._refuses = options.relayed == "refuse"
        network.company.refuses_relayed = self._refuses
        network.relays.name("invite", by_relay(membership.relays))
        if membership.manifest is not None:
            self.follow(membership.manifest)

    def follow(self, manifest: Manifest) -> None:
        """These are the swarm's rules."""
        self._network.relays.name("manifest", by_relay(manifest.swarm.relays))
        if manifest.swarm.relayed == "refuse":
            self._network.company.refuses_relayed = True
            self._network.relays.wanted = False
