"""Every limit on what other peers may take of this node before a byte of theirs is parsed, and why it is so.

docs/limits.md has them in one table (a test compares). Limits of what is inside a message stand beside its
parser. A *stranger* is a peer that rounds do not need, by this node's own choice (`talkoot.peer.outbound`).
"""

MAX_CONNECTIONS = 512
"""Connections of p2pd above which it closes idle ones: eight times the largest group, and 64 KiB each."""
LOW_CONNECTIONS = 256
"""Connections that p2pd keeps when it closes idle ones."""
RESERVED_CONNECTIONS = 128
"""Of MAX_CONNECTIONS, those that no stranger gets: two for each of the 64 peers of the largest group. However
many peers come in, a node finds room for those that it chose itself."""
CONNECTIONS_PER_PREFIX = 32
"""Connections of strangers from one IPv4 /24 or IPv6 /48, which is what one customer of a provider has: keys
are free, addresses are not. Half the largest group may be one university. `lan` and `test` have no limit."""
CONNECTIONS_PER_PEER = 8
"""Connections of one key: both sides dial at once, directly and through a relay, on two families."""
OUTBOUND_PER_PREFIX = 2
"""Peers without a vote, of one public prefix, that a node stays connected to by its own choice: with 80 keys
on 8 prefixes an attacker gets 16 of its places. The prefix is the one that they are connected from, and only
until that is known the one that they announce. Voters are chosen wherever they are."""
FEELER_S = 60.0
"""So often a node tries others of the peers that it was never connected to."""
MAX_PLACES = 4096
"""Peers of which is remembered from where they were connected; the oldest are forgotten first."""
MAX_DIALLED = 32
"""Peers dialled last whose connections are not closed in favour of others, though rounds do not need them:
sources of a download, and those that are asked for their state."""
CONNECTION_GRACE_S = 10.0
"""How long p2pd leaves a new connection alone: a handshake and the first stream need a second or two."""
GUARD_S = 2.0
"""Pause between two looks at p2pd's connections for those above a limit."""
MAX_CUT_AT_ONCE = 512
"""Peers that one look disconnects; each costs a call of p2pd."""
P2PD_FILES = 4096
"""Open files of p2pd: half-open handshakes (it gives them up itself after about a minute), connections and
channels together; a flood fails here and not in the system."""
P2PD_MEMORY_BYTES = 256 * 2**20
"""Soft limit of p2pd's memory."""
P2PD_REPLY_BYTES = 2**20
"""Longest answer of p2pd: the list of 8,000 connections."""

MAX_CHANNELS = 512
"""Accepted channels of all peers and protocols: three for each of the largest group, and as many again."""
RESERVED_CHANNELS = 192
"""Of them, those that no stranger gets: three for each of the largest group."""
CHANNELS_PER_PROTOCOL = 256
"""Accepted channels of one protocol, so that requests for state cannot shut out rounds."""
CHANNELS_PER_PEER = 16
"""Accepted channels of one peer in all protocols: as many as its protocols allow one by one."""
CHANNELS_PER_CONNECTION = 3
"""So many times CONNECTIONS_PER_PREFIX are the channels of strangers of one prefix: three protocols."""
MAX_UNREAD_STREAMS = 256
"""Accepted streams of which p2pd has not yet said whose they are; it says so at once."""
MAX_REFUSALS = 64
"""Channels above a limit that are told so; more at once are just cut."""
PREAMBLE_TIMEOUT_S = 5.0
"""How long p2pd may take to say whose an accepted stream is."""

OPENINGS_PER_S, OPENINGS_BURST = 16.0, 80.0
"""Channels that one peer may open. An honest one opens four a second in each of two lanes at most, and now
and then one for state: who opens more is at fault."""
PREFIX_OPENINGS_PER_S, PREFIX_OPENINGS_BURST = 64.0, 640.0
"""The same for all strangers of one prefix together."""
CALLS_PER_S, CALLS_BURST = 16.0, 128.0
"""Directory requests of one peer, each 64 KiB of one counted as one: a look at the directory, an announcement
and a ping take about four, every few seconds. An answer may be 3 MB."""
ALL_CALLS_PER_S, ALL_CALLS_BURST = 200.0, 1000.0
"""Directory requests of all strangers together: about a tenth of a core."""

CONTROL_PER_S, CONTROL_BURST = 500.0, 3000.0
"""Control frames of one peer; each 8 KiB of one count as a frame. In the sparse exchange of 64 peers a peer
sends about 100 a second. Above it the channel is read later, nothing is dropped."""
STRANGERS_CONTROL_PER_S, STRANGERS_CONTROL_BURST = 1000.0, 4000.0
"""Control frames of all strangers together: about a tenth of a core, however many keys they have."""
BULK_PER_S, BULK_BURST = 5000.0, 20000.0
"""Bulk frames of one peer: at 20 kB a chunk that is a gigabit a second."""
STRANGERS_BULK_PER_S, STRANGERS_BULK_BURST = 10000.0, 20000.0
"""Bulk frames of all strangers together."""
REQUESTS_PER_S, REQUESTS_BURST = 500.0, 1000.0
"""Requests for pieces of state of one peer: 500 MB a second; the gate lets out far fewer."""
LISTS_PER_S, LISTS_BURST = 8.0, 64.0
"""Requests of one peer for what is read or hashed first (head, chain, tree, manifest, tokenizer, records):
answers of up to 8 MiB to questions of 40 bytes. A newcomer asks a dozen, and one for each 1,024 rounds."""
METRICS_PER_S, METRICS_BURST = 1.0, 20.0
"""Questions of one peer for metrics: two Prometheus at intervals of two seconds. Above it the answer is
`busy`."""
STRANGERS_METRICS_PER_S, STRANGERS_METRICS_BURST = 4.0, 60.0
"""The same for all strangers together: answers of some 10 kB, collected once a second however many ask."""
PROBES_PER_S, PROBES_BURST = 4.0, 40.0
"""Questions of one peer about its own connection (`talkoot.peer.probing`). Above it the answer is `busy`."""
STRANGERS_PROBES_PER_S, STRANGERS_PROBES_BURST = 20.0, 200.0
"""The same for all strangers together: answers of 100 bytes."""
DIAL_BACKS_PER_S, DIAL_BACKS_BURST = 0.1, 4.0
"""Attempts to dial one peer back: one for each port and family that it may listen on, and again when its
router gave it another address. Each is one TCP connection to where the peer's own came from."""
PREFIX_DIAL_BACKS_PER_S, PREFIX_DIAL_BACKS_BURST = 0.2, 8.0
"""The same for all peers of one prefix together: keys are free."""
ALL_DIAL_BACKS_PER_S, ALL_DIAL_BACKS_BURST = 1.0, 20.0
"""The same for the node."""
DIAL_BACKS_AT_ONCE = 4
"""Of them, under way at a time: each holds a file for five seconds at most."""
PROBE_BYTES_PER_S, PROBE_BYTES_BURST = 128 * 1024, 16 * 2**20
"""Bytes of transfers that are timed with one peer: once each way at once, then half of that a minute."""
ALL_PROBE_BYTES_PER_S, ALL_PROBE_BYTES_BURST = 256 * 1024, 64 * 2**20
"""The same for the node: 2 Mbit/s at most, never two transfers at once, none while a round is exchanged."""
FRAME_UNIT_BYTES = 8192
"""Header bytes that count as one frame."""
MAX_METERED = 4096
"""Peers whose rates are remembered, those seen last."""

QUEUED_FRAMES = 16
QUEUED_BYTES = 2**20
"""Received and not yet taken frames of one channel; above either, reading pauses and the sender feels it."""
STRANGERS_HELD_BYTES = 256 * 2**20
"""Payloads of strangers in all channels, from the first byte until they are dealt with; the channel on which
one more is declared is refused. Memory for a payload is taken as it arrives, not as it is declared."""
SLOW_LOOK_S = 30.0
SLOW_BYTES = 4096
"""A frame that has begun brings so many bytes in so many seconds or is complete, else its channel is cut:
1 KB a second is a hundredth of the slowest link that a peer can take part with."""
