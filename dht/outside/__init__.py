"""A node on py-libp2p (trio) without hivemind and torch, in a process of its own.

It speaks to p2pd, reads the directory of a swarm and stores a record there.
"""

from talkoot.dht.outside import lean

lean.install()
