"""Kinds of faults; apart, so that the command line knows them without the simulator.

Streams are reliable and ordered, as on the real network: what is lost there is sent again and comes late,
until the connection breaks.
"""

DESCRIPTIONS = {
    "crash": "a peer's process is killed; started again a while later from what is on its disk",
    "torn": "the same in the middle of writing: before a rename, or with half a record on disk",
    "restart": "a peer is stopped in order and started again",
    "disk": "a peer's disk is full for a while; a node that ends for it is started again",
    "freeze": "a peer's process is stopped and goes on later, its timers all due at once",
    "hole": "nothing arrives from one peer at another; nobody is told",
    "oneway": "nothing arrives from one group of peers at all the others; nobody is told",
    "partition": "two groups of peers do not reach each other: connections break at once, or fall silent",
    "cut": "the connections between two peers break; they may dial each other again",
    "latency": "a peer's frames take up to a second and a half longer, both ways",
    "jitter": "a peer's frames take up to half a second longer, each its own time",
    "loss": "5 to 30 % of a peer's frames are lost and sent again later; now and then a connection breaks",
    "bandwidth": "a peer's upload, download or both fall to 5 to 50 kB/s",
    "slow": "a peer makes only a tenth of its steps",
    "skew": "a peer's wall clock jumps by up to ten minutes, either way, and back",
    "duplicate": "a third of a peer's control messages come twice",
    "reorder": "a third of a peer's control messages are overtaken by later ones",
}
"""What each kind does. With any faults at all, monotonic clocks start anywhere and run up to 1 % fast or
slow, and wall clocks are up to a second wrong."""

KINDS = tuple(DESCRIPTIONS)
