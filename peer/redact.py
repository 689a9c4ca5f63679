"""Takes out of texts what is nobody else's business: secrets, addresses, paths, and who peers are.

A peer keeps one alias throughout a bundle, so that what it did can still be followed. Aliases come from a
random key that is thrown away: two bundles cannot be compared, and an alias cannot be tried out.
"""

import re
import secrets
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any

from blake3 import blake3

from talkoot.dht.identity import PEER_ID_CHARS, key_of_peer_id
from talkoot.peer.logs import HIDDEN, is_secret_name

KEPT_HEX = 12
"""Characters of a digest that stay: enough to compare two nodes."""

ENDING = 8
"""Characters at the end of a PeerID that stand for it in logs."""

_PEER = re.compile(rf"(?<![1-9A-HJ-NP-Za-km-z])12D3KooW[1-9A-HJ-NP-Za-km-z]{{{PEER_ID_CHARS - 8}}}")
_ADDRESS = r"(?:\d{1,3}\.){3}\d{1,3}"
_PATTERNS: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"talkoot://[^\s'\"<>]+", re.IGNORECASE), "[invite]"),
    (
        re.compile(
            r"([\"']?\b(?:[\w-]*[_-])?(?:token|secret|seed|password|private|authorization|cookie|api[_-]?key)\b[\"']?"
            r"\s*[=:]\s*)(?:bearer\s+)?(?:\"[^\"]*\"|'[^']*'|[^\s,;}]+)",
            re.IGNORECASE,
        ),
        rf'\1"{HIDDEN}"',
    ),
    (re.compile(r"\bbearer\s+\S+", re.IGNORECASE), HIDDEN),
    (re.compile(r"/(?:ip4|ip6|ip6zone|dns|dns4|dns6|dnsaddr)/[^\s\"'<>,\])]+"), "[address]"),
    (re.compile(rf"(?<![\d.])(?!127\.0\.0\.1\b|0\.0\.0\.0\b){_ADDRESS}(?![\d.]*\d)(?::\d+)?"), "[address]"),
    (re.compile(r"(?<![\w:])(?:[0-9a-fA-F]{1,4}:){3,7}[0-9a-fA-F]{1,4}(?![\w:])"), "[address]"),
    (re.compile(r"(?<![\w:])(?:[0-9a-fA-F]{0,4}:){1,7}:(?:[0-9a-fA-F]{1,4}:?){1,7}(?![\w:])"), "[address]"),
    (re.compile(r"[\w.+-]+@[\w-]+(?:\.[\w-]+)+"), "[mail]"),
    (re.compile(r"(?<![\w/:.~\]])(?:/[\w.@+-]+)+/(?:site-packages|python3\.\d+)/"), "[path]/"),
    (
        re.compile(r"(?<![\w/:.~\]])/(?!api/|metrics\b|healthz\b|readyz\b)[\w.@+-]+(?:/[\w.@+-]+)+/?"),
        "[path]",
    ),
)
_PEER_FIELD = re.compile(r"([\"']peer(?:_id)?[\"']\s*:\s*[\"'])([1-9A-HJ-NP-Za-km-z]{6,52})(?=[\"'])")
_HEX = re.compile(r"(?<![0-9A-Za-z])[0-9a-fA-F]{32,}(?![0-9A-Za-z])")
_LONG = re.compile(r"[A-Za-z0-9_+/=-]{40,}")


class Redactor:
    """One for a bundle. Learn first, then redact: what is learned later was not known before."""

    def __init__(self, *, hidden: Mapping[str, str] | None = None) -> None:
        """`hidden`: texts that are replaced wherever they stand, with what; too short ones are not."""
        self._key = secrets.token_bytes(32)
        self._exact = {text: words for text, words in (hidden or {}).items() if len(text) >= 3}
        self._aliases: dict[str, str] = {}
        self._kept: set[str] = set()
        self._pattern: re.Pattern[str] | None = None

    def learn_peers(self, texts: Iterable[str]) -> None:
        """Every PeerID in these texts gets an alias, and so do its ending and its key in hex."""
        for text in texts:
            for peer in _PEER.findall(text):
                self._learn(peer)

    def call(self, peer: str, alias: str) -> None:
        """This PeerID is known by another name."""
        self._learn(peer, alias)

    def keep(self, values: Iterable[str]) -> None:
        """These hexadecimal values are no secrets; their beginnings stay."""
        self._kept.update(value.lower() for value in values)

    def text(self, text: str) -> str:
        """Without what is to be taken out."""
        for secret in sorted(self._exact, key=len, reverse=True):
            text = text.replace(secret, self._exact[secret])
        text = _PEER.sub(lambda match: self._learn(match[0]), text)
        text = _PEER_FIELD.sub(lambda match: match[1] + self._ending(match[2]), text)
        for pattern, words in _PATTERNS:
            text = pattern.sub(words, text)
        text = _HEX.sub(self._hex, text)
        text = _LONG.sub(_unless_a_word, text)
        return self._known_names().sub(lambda match: self._aliases[match[0]], text) if self._aliases else text

    def values(self, value: Any, name: str = "") -> Any:
        """Plain values, of which fields with a secret's name, names of people and whole paths are hidden."""
        if is_secret_name(name) and not isinstance(value, dict):
            return HIDDEN
        match value:
            case dict():
                return {self.text(str(key)): self.values(inner, str(key)) for key, inner in value.items()}
            case list() | tuple():
                return [self.values(inner, name) for inner in value]
            case str() if name == "public_name":
                return "[name]"
            case str() if value.startswith("/") and not value.startswith(("/ip", "/dns")):
                return self._exact.get(value, "[path]")
            case str():
                return self.text(value)
        return value

    def _learn(self, peer: str, alias: str = "") -> str:
        if peer not in self._aliases:
            self._pattern = None
            alias = alias or "peer-" + blake3(peer.encode(), key=self._key).hexdigest()[:8]
            self._aliases[peer] = self._aliases[peer[-ENDING:]] = alias
            with suppress(ValueError):  # it may only look like one
                self._aliases[key_of_peer_id(peer).hex()] = alias
        return self._aliases[peer]

    def _ending(self, name: str) -> str:
        """The alias of a peer of which only the end of its id is known here."""
        return self._aliases.get(name) or "peer-" + blake3(name.encode(), key=self._key).hexdigest()[:8]

    def _known_names(self) -> re.Pattern[str]:
        if self._pattern is None:
            names = "|".join(sorted(map(re.escape, self._aliases), key=len, reverse=True))
            self._pattern = re.compile(rf"(?<![0-9A-Za-z])(?:{names})(?![0-9A-Za-z])")
        return self._pattern

    def _hex(self, match: re.Match[str]) -> str:
        value = match[0].lower()
        if value in self._aliases:
            return self._aliases[value]
        if value in self._kept:
            return value[:KEPT_HEX]
        return "hex-" + blake3(value.encode(), key=self._key).hexdigest()[:8]


def _unless_a_word(match: re.Match[str]) -> str:
    """Keys and tokens mix capitals, small letters and digits; names of metrics do not."""
    text = match[0]
    mixed = (
        any(c.isupper() for c in text) and any(c.islower() for c in text) and any(c.isdigit() for c in text)
    )
    return HIDDEN if mixed else text
