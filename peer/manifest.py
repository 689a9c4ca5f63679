"""The manifest: what a swarm trains and how. Data, never code; the same on every peer.

A manifest is written by the founder as TOML (`talkoot.peer.manifest_file` reads it), *sealed* when the
swarm is founded (founders and layout hash are filled in), and from then on identified by the hash of its
canonical form: the swarm id.
"""

import math
import re
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal

import msgspec
from blake3 import blake3

from talkoot.averaging.audits import Audits
from talkoot.averaging.robustness import Robustness, sparse_problem
from talkoot.dht.multiaddr import parse_address
from talkoot.peer.protocol import PROTOCOL_VERSION


def _require(condition: bool, field_name: str, bound: str) -> None:
    """Raise ValueError naming the field and its bound unless `condition` holds."""
    if not condition:
        raise ValueError(f"{field_name} must be {bound}")


_CODEC_NAME = re.compile(r"[a-z][a-z0-9_.:=,/-]{0,63}")
# only the form: whether the codec exists is known to talkoot.compression, which needs torch

MAX_RELAYS = 8
"""Most addresses in `swarm.relays`."""

MAX_CONFIG_DEPTH = 8
"""Deepest nesting of `model.config`."""


def _check_plain(value: object, name: str, depth: int = 0) -> None:
    """Raise ValueError naming what is in `value` that TOML and msgpack do not both carry unchanged."""
    _require(depth <= MAX_CONFIG_DEPTH, name, f"at most {MAX_CONFIG_DEPTH} levels deep")
    if isinstance(value, dict):
        for key, item in value.items():
            _require(isinstance(key, str), name, "a table with names as keys")
            _check_plain(item, f"{name}.{key}", depth + 1)
    elif isinstance(value, list):
        for item in value:
            _check_plain(item, name, depth + 1)
    elif isinstance(value, bool | str):
        return
    elif isinstance(value, int):
        _require(-(2**63) <= value < 2**63, name, "a 64-bit integer")
    else:
        _require(
            isinstance(value, float) and math.isfinite(value), name, "a table, list, string or finite number"
        )


def _is_relay(text: str) -> bool:
    try:
        address = parse_address(text)
    except ValueError:
        return False
    return address.peer is not None and address.relay is None and address.port > 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Swarm:
    """Section [swarm]: who trains together."""

    name: str
    """A short name for people: 1 to 64 characters."""
    description: str = ""
    """One line about the purpose, at most 500 characters."""
    license: str = "Apache-2.0"
    """SPDX identifier under which the trained weights are published."""
    admission: Literal["invite", "open", "allowlist"] = "invite"
    """`invite`: peers with an invite key signed by a founder weigh and vote from their next round on.
    `allowlist`: the same, for the peers in `allowlist` and nobody else. `open`: anyone may join and
    contribute; founders alone vote until trust is earned."""
    allowlist: tuple[str, ...] = ()
    """Peer ids that `admission = "allowlist"` lets in (`talkoot id` tells one's own), at most 512; founders
    need not be among them."""
    founders: tuple[str, ...] = ()
    """Peer ids of the founders, the first voters; filled in when the swarm is founded."""
    start_peers: int = 1
    """Training starts when this many peers are there (first round only)."""
    max_peers: int = 64
    """Most peers in one group."""
    relays: tuple[str, ...] = ()
    """Multiaddrs with /p2p/ of relays (`talkoot relay`) through which peers are reached that nobody can dial,
    at most 8; peers also find those that announce themselves."""
    relayed: Literal["allow", "refuse"] = "allow"
    """`refuse`: no peer of the swarm takes part through a relay, and none passes anything through one."""
    trust_days: int = 60
    """An invite, or a state that was left alone, older than this is not trusted any more: voters who
    have left since could forge what came after it. Keep it well below the time after which you would no
    longer trust somebody who was a voter once."""

    def __post_init__(self) -> None:
        _require(1 <= len(self.name) <= 64, "swarm.name", "1 to 64 characters")
        _require(len(self.description) <= 500, "swarm.description", "at most 500 characters")
        _require(len(self.license) <= 100, "swarm.license", "at most 100 characters")
        kinds = ("invite", "open", "allowlist")
        _require(self.admission in kinds, "swarm.admission", "one of " + ", ".join(kinds))
        listed = self.admission == "allowlist"
        _require(len(self.allowlist) <= 512, "swarm.allowlist", "at most 512 peer ids")
        _require(not listed or bool(self.allowlist), "swarm.allowlist", "given for admission 'allowlist'")
        _require(listed or not self.allowlist, "swarm.allowlist", "empty but for admission 'allowlist'")
        _require(len(self.relays) <= MAX_RELAYS, "swarm.relays", f"at most {MAX_RELAYS} addresses")
        _require(all(map(_is_relay, self.relays)), "swarm.relays", "multiaddrs that end in /p2p/<peer id>")
        _require(self.relayed in ("allow", "refuse"), "swarm.relayed", '"allow" or "refuse"')
        _require(1 <= self.start_peers <= 64, "swarm.start_peers", "1 to 64")
        _require(1 <= self.max_peers <= 64, "swarm.max_peers", "1 to 64")
        _require(1 <= self.trust_days <= 3650, "swarm.trust_days", "1 to 3650")
        _require(len(self.founders) <= 64, "swarm.founders", "at most 64 peer ids")


@dataclass(frozen=True, kw_only=True, slots=True)
class Model:
    """Section [model]: the network, as a `transformers` configuration."""

    kind: Literal["transformers", "numpy"] = "transformers"
    """`transformers`: a causal language model built from `config`. `numpy`: the tiny bigram model that
    tests with many nodes use; it needs neither torch nor transformers."""
    config: dict[str, Any] = field(default_factory=dict)
    """`model_type` and the fields of its configuration class in `transformers`; never a name to download."""
    layout: str = ""
    """Hash over names, shapes and order of the flat parameter vector; filled in when founded."""
    numel: int = 0
    """Number of parameters; filled in when founded."""

    def __post_init__(self) -> None:
        _require(self.kind in ("transformers", "numpy"), "model.kind", '"transformers" or "numpy"')
        _require(0 <= self.numel <= 2**40, "model.numel", "0 to 2**40")
        for key in ("auto_map", "trust_remote_code", "_name_or_path"):
            _require(key not in self.config, f"model.config.{key}", "left out: nothing is downloaded")
        _check_plain(self.config, "model.config")


@dataclass(frozen=True, kw_only=True, slots=True)
class Data:
    """Section [data]: what is read, and how it becomes tokens."""

    source: Literal["stdlib", "text", "jsonl", "tokens", "huggingface"] = "stdlib"
    """`stdlib`: the running interpreter's standard library source. `text`: files or globs. `jsonl`: one
    object a line. `tokens`: a memory-mapped file of token ids. `huggingface`: a streamed data set."""
    paths: tuple[str, ...] = ()
    """Files or globs for `text`, `jsonl` and `tokens`, relative to the manifest."""
    text_field: str = "text"
    """The field that holds the text in `jsonl` and `huggingface`."""
    token_dtype: Literal["uint8", "uint16", "uint32"] = "uint16"
    """Element type of `tokens` files, little-endian."""
    dataset: str = ""
    """`huggingface`: name of the data set."""
    subset: str = ""
    """`huggingface`: configuration of the data set, may be empty."""
    split: str = "train"
    """`huggingface`: the split to stream."""
    revision: str = ""
    """`huggingface`: commit hash of the data set; required, so that all peers read the same."""
    tokenizer: str = "bytes"
    """`bytes` (256 values) or the path of a `tokenizer.json`, relative to the manifest."""
    tokenizer_hash: str = ""
    """BLAKE3 of that `tokenizer.json`; filled in when founded."""
    sequence_length: int = 128
    """Tokens in one training window."""
    held_out_percent: float = 5.0
    """Share of documents, chosen by the hash of their content, that nobody trains on."""
    license: str = ""
    """Licence of the data, for model cards: an SPDX identifier or a few words, at most 100 characters."""

    def __post_init__(self) -> None:
        sources = ("stdlib", "text", "jsonl", "tokens", "huggingface")
        _require(self.source in sources, "data.source", "one of " + ", ".join(sources))
        _require(8 <= self.sequence_length <= 2**20, "data.sequence_length", "8 to 1048576")
        _require(0.1 <= self.held_out_percent <= 50, "data.held_out_percent", "0.1 to 50")
        dtypes = ("uint8", "uint16", "uint32")
        _require(len(self.license) <= 100, "data.license", "at most 100 characters")
        _require(self.token_dtype in dtypes, "data.token_dtype", "one of " + ", ".join(dtypes))
        if self.source in ("text", "jsonl", "tokens"):
            _require(bool(self.paths), "data.paths", f"given for source {self.source!r}")
        if self.source == "huggingface":
            _require(bool(self.dataset), "data.dataset", "given for source 'huggingface'")
            _require(bool(self.revision), "data.revision", "a commit hash, so that all peers read the same")


@dataclass(frozen=True, kw_only=True, slots=True)
class Inner:
    """Section [inner]: the local optimiser, AdamW (Loshchilov and Hutter 2019)."""

    batch_size: int = 64
    """Sequences in one optimiser step; split into micro-batches as memory demands."""
    learning_rate: float = 3e-3
    """Peak learning rate."""
    beta1: float = 0.9
    """Decay of the mean of the gradient."""
    beta2: float = 0.95
    """Decay of the mean of its square."""
    weight_decay: float = 0.1
    """Applied to matrices, not to norms and biases."""
    clip_norm: float = 1.0
    """Largest norm of the gradient of one step."""
    warmup_steps: int = 50
    """Linear warm-up on the swarm's global step."""
    total_steps: int = 0
    """Global step at which training ends; 0: open end, no decay."""
    decay_steps: int = 0
    """Linear decay to zero over the last so many of `total_steps` (warm-up, stable, decay)."""
    compile: bool = False
    """Use torch.compile."""
    seed: int = 0
    """Seed of the initial weights."""

    def __post_init__(self) -> None:
        _require(1 <= self.batch_size <= 2**20, "inner.batch_size", "1 to 1048576")
        _require(0 < self.learning_rate <= 1, "inner.learning_rate", "above 0, at most 1")
        _require(0 <= self.beta1 < 1, "inner.beta1", "0 or more and below 1")
        _require(0 <= self.beta2 < 1, "inner.beta2", "0 or more and below 1")
        _require(0 <= self.weight_decay <= 10, "inner.weight_decay", "0 to 10")
        _require(0 < self.clip_norm <= 1e6, "inner.clip_norm", "above 0, at most 1e6")
        _require(0 <= self.warmup_steps <= 10**9, "inner.warmup_steps", "0 to 10**9")
        _require(0 <= self.total_steps <= 10**12, "inner.total_steps", "0 to 10**12")
        _require(0 <= self.decay_steps <= 10**12, "inner.decay_steps", "0 to 10**12")
        _require(self.decay_steps <= self.total_steps, "inner.decay_steps", "at most inner.total_steps")


@dataclass(frozen=True, kw_only=True, slots=True)
class Outer:
    """Section [outer]: SGD with Nesterov momentum on pseudo-gradients (DiLoCo, Douillard et al. 2023)."""

    inner_steps: int = 100
    """H: inner steps of an average peer in one round."""
    learning_rate: float = 0.7
    """Step size along the averaged pseudo-gradient; 0.7 is DiLoCo's."""
    momentum: float = 0.9
    """0.9 from about 50 rounds on; 0.5 for shorter runs."""

    def __post_init__(self) -> None:
        _require(1 <= self.inner_steps <= 10**6, "outer.inner_steps", "1 to 1000000")
        _require(0 < self.learning_rate <= 10, "outer.learning_rate", "above 0, at most 10")
        _require(0 <= self.momentum < 1, "outer.momentum", "0 or more and below 1")


@dataclass(frozen=True, kw_only=True, slots=True)
class Compression:
    """Section [compression]: how pseudo-gradients travel."""

    codec: str = "int8"
    """Codec of contributions, or `auto`: for each round the most exact one whose exchange keeps within
    `exchange_share` on the slowest uplink of the round before."""
    aggregate_codec: str = "auto"
    """Codec of the aggregate that reducers send back (`exchange = "dense"`). `auto`: chosen together with
    `codec` when that is `auto`, else `int8`."""
    exchange_share: float = 0.1
    """Part of a round that its exchange may take (`codec = "auto"`)."""
    warm_rounds: int = 10
    """So many first rounds may take four times `exchange_share`: early contributions are large and nothing is
    carried over yet."""
    error_feedback: bool | Literal["auto"] = "auto"
    """Add what encoding lost to the next contribution. `auto`: with codecs that lose much (all but `int8`,
    `fp16`, `bf16` and `fp32`)."""
    feedback_decay: float = 1.0
    """What encodings have lost is multiplied with this before each new contribution; below 1 it is forgotten
    in time. Work that was not counted is never forgotten."""

    def __post_init__(self) -> None:
        for name in ("codec", "aggregate_codec"):
            _require(
                bool(_CODEC_NAME.fullmatch(getattr(self, name))), f"compression.{name}", "a codec's name"
            )
        _require(
            self.aggregate_codec.partition(":")[0] not in ("topk", "sign"),
            "compression.aggregate_codec",
            "one that needs no error feedback, which reducers do not have: not topk or sign",
        )
        _require(0 < self.exchange_share <= 1, "compression.exchange_share", "above 0, at most 1")
        _require(0 <= self.warm_rounds <= 10**6, "compression.warm_rounds", "0 to 1000000")
        _require(
            self.error_feedback in (True, False, "auto"),
            "compression.error_feedback",
            'true, false or "auto"',
        )
        _require(0 < self.feedback_decay <= 1, "compression.feedback_decay", "above 0, at most 1")


Exchange = Literal["dense", "sparse"]
"""How contributions are brought together in a round."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Round:
    """Section [round]: when rounds close and how long their phases may take, in seconds."""

    min_interval_s: float = 2.0
    """Shortest time between two rounds."""
    max_interval_s: float = 1800.0
    """A round closes after this time even if the swarm's steps are not complete."""
    announce_s: float = 10.0
    """Pause between two announcements of a peer's progress."""
    form_s: float = 10.0
    """Longest wait of a leader for peers to join an attempt; doubles with each attempt."""
    exchange_s: float = 120.0
    """Longest time from the roster to the cut; doubles with each attempt."""
    certify_s: float = 30.0
    """Longest time for collecting signatures; doubles with each attempt."""
    floor_s: float = 2.0
    """Shortest of all these: deadlines are measured and lie between this and the longest."""
    max_absent_rounds: int = 3
    """A voter absent for more rounds than this loses its vote."""
    eval_windows: int = 64
    """Held-out windows on which each peer measures the outer parameters after a round; 0: never."""
    exchange: Exchange = "dense"
    """`dense`: each voter averages a part of the vector and sends it to everybody; a peer sends two encoded
    vectors, however many peers there are. `sparse`: every peer fetches every contribution whole, from whoever
    has it, and averages by itself without `aggregate_codec`; a slow uplink sends its contribution about
    once, the others up to one for each peer. For small contributions."""

    def __post_init__(self) -> None:
        _require(0 <= self.min_interval_s <= 86400, "round.min_interval_s", "0 to 86400")
        _require(
            self.min_interval_s < self.max_interval_s <= 7 * 86400,
            "round.max_interval_s",
            "above round.min_interval_s, at most a week",
        )
        _require(0.2 <= self.announce_s <= 300, "round.announce_s", "0.2 to 300")
        for name in ("form_s", "exchange_s", "certify_s"):
            _require(0.1 <= getattr(self, name) <= 3600, f"round.{name}", "0.1 to 3600")
        shortest = min(self.form_s, self.exchange_s, self.certify_s)
        _require(0.01 <= self.floor_s <= shortest, "round.floor_s", "0.01 to the shortest of the others")
        _require(1 <= self.max_absent_rounds <= 10**6, "round.max_absent_rounds", "1 to 1000000")
        _require(0 <= self.eval_windows <= 10**6, "round.eval_windows", "0 to 1000000")
        _require(self.exchange in ("dense", "sparse"), "round.exchange", '"dense" or "sparse"')


@dataclass(frozen=True, kw_only=True, slots=True)
class State:
    """Section [state]: what peers keep on their disks for those who join or come back."""

    snapshot_rounds: int = 2
    """After each round whose number is a multiple of this, every peer keeps the outer state beside the newest
    one, until the next such round, or up to four times as long while somebody downloads it: newcomers
    download one and the same state from all peers while rounds go on, and replay those. Costs the disk of one
    more outer state. 0: none is kept."""
    log_rounds: int = 64
    """Rounds whose encoded aggregates (`exchange = "sparse"`: contributions) are kept, so that a peer that
    missed a few rounds replays them instead of fetching parameters and momentum. 0: none."""
    log_bytes: int = 0
    """Most bytes that they may take, the oldest go first. 0: 8 for each parameter, as many as the outer state
    has: 7 rounds of `int8`, 15 of `int4`."""

    def __post_init__(self) -> None:
        _require(0 <= self.snapshot_rounds <= 10**6, "state.snapshot_rounds", "0 to 1000000")
        _require(0 <= self.log_rounds <= 10**4, "state.log_rounds", "0 to 10000")
        _require(0 <= self.log_bytes <= 2**50, "state.log_bytes", "0 to 2**50")


@dataclass(frozen=True, kw_only=True, slots=True)
class Checkpoint:
    """Section [checkpoint]: files of whole states that peers write for people; options of `run` override."""

    every_rounds: int = 100
    """A checkpoint is written when the number of final rounds passes a multiple of this; 0: none are."""
    keep: int = 2
    """So many stay; older ones are removed once a new one has been verified."""
    max_bytes: int = 50_000_000_000
    """Of all that stay together (8 bytes a parameter each); the newest stays even if it is larger."""

    def __post_init__(self) -> None:
        _require(0 <= self.every_rounds <= 10**6, "checkpoint.every_rounds", "0 to 1000000")
        _require(1 <= self.keep <= 1000, "checkpoint.keep", "1 to 1000")
        _require(0 <= self.max_bytes <= 10**15, "checkpoint.max_bytes", "0 to 10**15")


@dataclass(frozen=True, kw_only=True, slots=True)
class Manifest:
    """All sections together."""

    swarm: Swarm
    """Who trains together."""
    model: Model
    """The network, as a `transformers` configuration."""
    data: Data = field(default_factory=Data)
    """What is read, and how it becomes tokens."""
    inner: Inner = field(default_factory=Inner)
    """The local optimiser."""
    outer: Outer = field(default_factory=Outer)
    """The optimiser of rounds."""
    compression: Compression = field(default_factory=Compression)
    """How pseudo-gradients travel."""
    round: Round = field(default_factory=Round)
    """When rounds close and how long their phases may take."""
    robustness: Robustness = field(default_factory=Robustness)
    """How contributions become one aggregate, some of which may lie."""
    audits: Audits = field(default_factory=Audits)
    """Whether trainers are audited."""
    state: State = field(default_factory=State)
    """What peers keep on their disks for those who join or come back."""
    checkpoint: Checkpoint = field(default_factory=Checkpoint)
    """Files of whole states."""
    protocol: int = PROTOCOL_VERSION
    """Version of everything on the wire; peers of one swarm speak the same."""

    def __post_init__(self) -> None:
        codec = self.compression.codec
        problem = sparse_problem(self.robustness, exchange=self.round.exchange, codec=codec)
        if problem:
            raise ValueError(problem)

    @property
    def sealed(self) -> bool:
        """True when founders, layout and size are filled in: the swarm exists."""
        return bool(self.swarm.founders and self.model.layout and self.model.numel)

    def canonical(self) -> bytes:
        """The one byte string that stands for this manifest: msgpack with sorted keys.

        Sections [robustness] and [audits], robustness.arms_at, swarm.allowlist, swarm.relays and
        swarm.relayed are in it only where they differ from the default, so that swarms from before there were
        any keep their ids.
        """
        values = asdict(self)
        for section in fields(self):
            for item in fields(getattr(self, section.name)) if section.name != "protocol" else ():
                if item.type is float:  # 1 and 1.0 are the same setting, so they must be the same bytes
                    values[section.name][item.name] = float(values[section.name][item.name])
        for name, default in (("robustness", Robustness()), ("audits", Audits())):
            if getattr(self, name) == default:
                del values[name]
        if "robustness" in values and not self.robustness.arms_at:
            del values["robustness"]["arms_at"]
        for item in fields(Swarm):
            if (
                item.name in ("allowlist", "relays", "relayed")
                and getattr(self.swarm, item.name) == item.default
            ):
                del values["swarm"][item.name]
        return msgspec.msgpack.encode(values, order="deterministic")

    @property
    def swarm_id(self) -> bytes:
        """32 bytes: BLAKE3 of the canonical form, in a domain of its own."""
        return blake3(self.canonical(), derive_key_context="talkoot 2026 swarm id").digest()


MAX_MANIFEST_BYTES = 64 * 1024
"""Longest canonical manifest that is accepted from the network."""


def from_canonical(data: bytes) -> Manifest:
    """Parse a canonical manifest that came from another peer.

    Raises ValueError when it is too long, malformed, has unknown or ill-typed fields, or is not canonical.
    """
    if len(data) > MAX_MANIFEST_BYTES:
        raise ValueError(f"manifest of {len(data)} bytes; at most {MAX_MANIFEST_BYTES} are accepted")
    try:
        values = msgspec.msgpack.decode(data)
    except RecursionError as error:
        raise ValueError("manifest is nested too deeply") from error
    if not isinstance(values, dict):
        raise ValueError("manifest is not a table")
    manifest = msgspec.convert(values, Manifest)
    if manifest.canonical() != data:
        raise ValueError("manifest has unknown fields or is not in canonical form")
    return manifest
