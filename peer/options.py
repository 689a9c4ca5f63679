"""What one start of the daemon was asked to do. The command line fills it in; the daemon reads it."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from talkoot.peer.guest.settings import GuestSettings
from talkoot.peer.public_name import check_name

if TYPE_CHECKING:
    from talkoot.peer.config.configuration import Configuration

Profile = Literal["home", "server", "lowpower", "lan", "test"]

PROFILES: tuple[Profile, ...] = ("home", "server", "lowpower", "lan", "test")

Role = Literal["full", "client", "observer"]

ROLES: tuple[Role, ...] = ("full", "client", "observer")

Share = Literal["none", "training", "all"]

SHARES: tuple[Share, ...] = ("none", "training", "all")

Relayed = Literal["allow", "refuse"]

RELAYED: tuple[Relayed, ...] = ("allow", "refuse")

LogFormat = Literal["auto", "text", "json"]

LOG_FORMATS: tuple[LogFormat, ...] = ("auto", "text", "json")

BYTES_PER_MBIT = 125_000
"""Bytes/s of 1 Mbit/s."""

MAX_AUDIT_PARTS = 64
"""All parts of a round."""

MIN_UPLINK = 0.01 * BYTES_PER_MBIT
MAX_UPLINK = 1e6 * BYTES_PER_MBIT
"""Slowest and fastest uplink, in bytes/s, that a volunteer may state."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RunOptions:
    """Options of `talkoot run`. Nothing here is part of the swarm's agreement; that is the manifest."""

    state_dir: Path
    """Key, outer state, local work and logs live here; one daemon at a time."""
    manifest: Path | None = None
    """TOML file of a swarm to found (a draft) or to join (sealed). None: see `join`."""
    join: str | None = None
    """Text of an invite (`talkoot://...`). Neither it nor `manifest`: go on with what `state_dir` holds."""
    http_port: int = 0
    """Port of the local API on 127.0.0.1; 0: any free one, written to `<state_dir>/api.json`."""
    port: int = 0
    """TCP port for other peers; 0: the one of the last start, or any free one."""
    listen: tuple[str, ...] = ()
    """IP addresses to listen on instead of those that `profile` gives."""
    announce: tuple[str, ...] = ()
    """Multiaddrs told to others instead of those that were found (port forwarding, public name)."""
    bootstrap: tuple[str, ...] = ()
    """Multiaddrs with /p2p/ of peers to ask first, besides those of the invite."""
    relays: tuple[str, ...] = ()
    """Multiaddrs with /p2p/ of relays to be reached through, besides those of the invite, the manifest and
    the directory."""
    relayed: Relayed = "allow"
    """`refuse`: nothing goes through relays, neither to this peer nor from it."""
    device: str = "auto"
    """`auto`, `cpu`, `cuda`, `cuda:N` or `mps`."""
    share_gpu: bool = False
    """Do not mind other nodes of this user on the same GPU."""
    threads: int = 0
    """CPU threads of the trainer; 0: as many as there are cores."""
    memory_limit_bytes: int = 0
    """Memory that the trainer may use on its device; 0: no limit of our own."""
    data_paths: tuple[str, ...] = ()
    """Files or globs read instead of the manifest's `data.paths`."""
    profile: Profile = "home"
    """`home`, `lowpower`: NAT traversal, all addresses. `server`: a public address, asks no router.
    `lan`: private addresses only. `test`: loopback only."""
    role: Role = "full"
    """`full`: sends, receives and reduces. `client`: does not reduce (a slow uplink, nobody can dial it).
    `observer`: follows, stores and serves the state; no trainer. One whose key has the vote votes."""
    uplink: float = 0.0
    """Bytes/s that this connection can send, as the volunteer knows it; 0: measure."""
    serve_rate: float = 0.0
    """Bytes of state a second that leave for joining peers at most; 0: as fast as they take them. While a
    round is exchanged it is a quarter of the measured uplink in any case."""
    audit_parts: int = 1
    """Parts of other reducers that are fetched and computed again after each round; 0: none. Large ones only
    after some rounds: on average each takes no more bytes than one contribution has."""
    checkpoint_every: int | None = None
    """Rounds between two checkpoints, 0: none; None: as the manifest says. Likewise the next two."""
    checkpoint_keep: int | None = None
    """How many checkpoints stay."""
    checkpoint_bytes: int | None = None
    """Most bytes of all checkpoints together; the newest stays in any case."""
    checkpoint: Path | None = None
    """A checkpoint file to begin with where the state directory holds no state: its swarm's state, or, with
    the draft of a new swarm in `manifest`, that swarm's first parameters."""
    share_metrics: Share = "training"
    """What other peers may ask of this node's metrics, so that somebody can watch a swarm whose nodes nobody
    can connect to. `training`: steps, loss and rounds, which its announcements and contributions show anyway.
    `all`: also what concerns this machine (memory, disk, GPU, connections, log lines). `none`: nothing."""
    public_name: str = ""
    """Shown to everybody instead of the peer id (`talkoot.peer.public_name`); empty: none."""
    log_format: LogFormat = "auto"
    """`text` for people, `json` for programs; `auto`: text on a terminal, JSON elsewhere."""
    guest: GuestSettings = field(default_factory=GuestSettings)
    """What the node may use, and when it gives way; may change while it runs."""
    configuration: "Configuration | None" = field(default=None, repr=False)
    """What these options were made of, to look again when it changes. None: they were given as they are."""
    gpu_readings: Path | None = None
    """JSON file that says how GPUs fare, in place of NVIDIA's library (`talkoot.peer.guest.senses.gpu`)."""
    verbose: bool = False
    """Log what is of use to developers only."""

    @property
    def observes(self) -> bool:
        """Whether this peer follows without training."""
        return self.role == "observer"

    def __post_init__(self) -> None:
        """Raises ValueError naming the field and its bound."""
        if self.manifest is not None and self.join is not None:
            raise ValueError("give a manifest or an invite, not both")
        for name in ("http_port", "port"):
            if not 0 <= getattr(self, name) <= 65535:
                raise ValueError(f"{name} must be 0 to 65535")
        if self.threads < 0:
            raise ValueError("threads must be 0 or more")
        if self.memory_limit_bytes < 0:
            raise ValueError("memory_limit_bytes must be 0 or more")
        if self.uplink != 0 and not MIN_UPLINK <= self.uplink <= MAX_UPLINK:
            raise ValueError("uplink must be 0.01 to 1000000 Mbit/s")
        if not self.serve_rate >= 0:
            raise ValueError("serve_rate must be 0 or more")
        if not 0 <= self.audit_parts <= MAX_AUDIT_PARTS:
            raise ValueError(f"audit_parts must be 0 to {MAX_AUDIT_PARTS}")
        for name, least in (("checkpoint_every", 0), ("checkpoint_keep", 1), ("checkpoint_bytes", 0)):
            if (value := getattr(self, name)) is not None and value < least:
                raise ValueError(f"{name} must be {least} or more")
        if self.public_name:
            check_name(self.public_name)
        if self.relayed not in RELAYED:
            raise ValueError("relayed must be one of " + ", ".join(RELAYED))
        if self.role not in ROLES:
            raise ValueError("role must be one of " + ", ".join(ROLES))
        if self.share_metrics not in SHARES:
            raise ValueError("share_metrics must be one of " + ", ".join(SHARES))
        if self.log_format not in LOG_FORMATS:
            raise ValueError("log_format must be one of " + ", ".join(LOG_FORMATS))
        if self.profile not in PROFILES:
            raise ValueError("profile must be one of " + ", ".join(PROFILES))
