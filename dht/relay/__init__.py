"""A circuit-relay-v2 node for peers that nobody can dial: `talkoot relay`, in a process of its own.

py-libp2p makes the encrypted connections; what runs on them is ours, because in 0.8.1 its muxer holds
whatever a peer sends, window or not, and gives a slow receiver five seconds, and its relay keeps no quota
across circuits. Importing this package imports neither torch nor hivemind.
"""
