"""Rules of aggregation as words: `default`, `mean`, or fields of the manifest's section [robustness]."""

from typing import Any, Literal, get_args, get_origin, get_type_hints

from talkoot.averaging.robustness import Robustness
from talkoot.dht.errors import ConfigError
from talkoot.peer import presets

NAMED: dict[str, Robustness] = {
    "default": presets.PUBLIC,
    "mean": Robustness(norm_cap="none"),
}
"""What the preset for public swarms says, and the mean without any bound."""


def parse_rule(words: str) -> Robustness:
    """`default`, `mean` (unbounded), or fields such as `rule=centered_clip,clip_radius=0.5`.

    Raises ConfigError.
    """
    if words in NAMED:
        return NAMED[words]
    known = get_type_hints(Robustness)
    values: dict[str, Any] = {}
    for pair in words.split(","):
        name, equals, value = pair.partition("=")
        if not equals or name not in known:
            raise ConfigError(
                f"--rule {words}: {name or 'nothing'} is neither default, mean nor <field>=<value> with a "
                f"field of [robustness]: {', '.join(known)}"
            )
        values[name] = _value(words, name, value, known[name])
    try:
        return Robustness(**values)
    except ValueError as error:
        raise ConfigError(f"--rule {words}: {error}") from error


def _value(words: str, name: str, value: str, kind: Any) -> object:
    if get_origin(kind) is Literal:
        if value not in get_args(kind):
            raise ConfigError(f"--rule {words}: {name} must be one of {', '.join(get_args(kind))}")
        return value
    try:
        return kind(value)
    except ValueError as error:
        raise ConfigError(f"--rule {words}: {name} must be a number, not {value!r}") from error
