"""The network's configuration that follows from the options of a start."""

from talkoot.dht.config import NetworkConfig
from talkoot.peer.options import RunOptions

PRESETS = {
    "home": NetworkConfig.home,
    "server": NetworkConfig.server,
    "lowpower": NetworkConfig.home,
    "lan": NetworkConfig.lan,
    "test": NetworkConfig.test,
}
"""{profile: how it is on the network}"""


def network_config(options: RunOptions, bootstrap: tuple[str, ...]) -> NetworkConfig:
    """Raises ConfigError naming the field and its bound."""
    changes: dict[str, object] = {"port": options.port, "bootstrap": bootstrap, "announce": options.announce}
    if options.listen:
        changes["listen"] = options.listen
    if options.relays:
        changes |= {"relays": options.relays, "relay": True}
    if options.relayed == "refuse":
        changes["relay"] = False
    return PRESETS[options.profile](**changes)
