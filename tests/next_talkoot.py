"""`talkoot` of the next release: its newest protocol is one above ours, and it says that it is release 9.9.9.

Started in place of the command. What it does in a swarm of our protocol is what the next release will do.
"""

import importlib.metadata

from talkoot.peer import protocol

NEXT_RELEASE = "9.9.9"

if __name__ == "__main__":
    vars(protocol)["PROTOCOL_VERSION"] = protocol.PROTOCOL_VERSION + 1  # before anybody has read it
    known = importlib.metadata.version
    vars(importlib.metadata)["version"] = lambda name: NEXT_RELEASE if name == "talkoot" else known(name)

    from talkoot.cli.main import main

    main()
