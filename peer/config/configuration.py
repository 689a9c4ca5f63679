"""All settings of one node as they hold, and the options of a start that follow from them."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from talkoot.dht.errors import ConfigError
from talkoot.peer.config.file import FILE_NAME, of_file, of_text
from talkoot.peer.config.layers import Layer, Source, Value, of_environment, of_flags, resolve
from talkoot.peer.config.table import BY_KEY, TABLE, Setting
from talkoot.peer.guest.settings import GuestSettings
from talkoot.peer.options import RunOptions

OptionsT = TypeVar("OptionsT", GuestSettings, RunOptions)

Flags = Mapping[str, tuple[str, object]]
"""{key: (the flag, its value)}"""


@dataclass(frozen=True, slots=True)
class Configuration:
    """Of one state directory, for the environment and flags that were given at its start."""

    state_dir: Path
    environment: Layer
    flags: Layer
    values: Mapping[str, Value]

    @classmethod
    def load(
        cls, state_dir: Path, environment: Mapping[str, str], flags: Flags | None = None, *, file: bool = True
    ) -> "Configuration":
        """Read the file of a state directory, if there is one, under environment and flags.

        `file` False: as if there were none. Raises ConfigError, one line that names the place.
        """
        given = of_file(state_dir / FILE_NAME) if file else {}
        return cls.of_layers(state_dir, given, of_environment(environment), of_flags(flags or {}))

    @classmethod
    def of_layers(cls, state_dir: Path, file: Layer, environment: Layer, flags: Layer) -> "Configuration":
        """Everything together, checked. Raises ConfigError."""
        made = cls(state_dir, environment, flags, resolve(file, environment, flags))
        made.options()
        return made

    def again(self) -> "Configuration":
        """With the file as it is now. Raises ConfigError."""
        return self.of_layers(self.state_dir, of_file(self.file), self.environment, self.flags)

    def with_text(self, text: str) -> "Configuration":
        """As if the file held `text`. Raises ConfigError."""
        return self.of_layers(
            self.state_dir, of_text(text, name=str(self.file)), self.environment, self.flags
        )

    @property
    def file(self) -> Path:
        """Where its file is, or would be."""
        return self.state_dir / FILE_NAME

    def __getitem__(self, key: str) -> Any:
        return self.values[key].now

    def source(self, key: str) -> Source:
        """Who said so."""
        return self.values[key].source

    def guest(self) -> GuestSettings:
        """What may change while the node runs. Raises ConfigError."""
        return self._checked(GuestSettings, "guest", {})

    def options(self, **start: Any) -> RunOptions:
        """Options of a start; `start`: those that are no settings. Raises ConfigError."""
        start = {"state_dir": self.state_dir} | start | {"guest": self.guest(), "configuration": self}
        return self._checked(RunOptions, "run", start)

    def _checked(self, kind: type[OptionsT], owner: str, others: Mapping[str, Any]) -> OptionsT:
        fields = {
            goes.partition(".")[2]: setting
            for setting in TABLE
            for goes in setting.goes
            if goes.startswith(owner + ".")
        }
        arguments = {name: self[setting.key] for name, setting in fields.items()}
        try:
            return kind(**(arguments | dict(others)))
        except ValueError as error:  # "field must be <bound>"
            field, _, words = str(error).partition(" ")
            if field not in fields:
                raise ConfigError(str(error)) from error
            setting = fields[field]
            raise ConfigError(f"{self.values[setting.key].place()}: {setting.key} {words}") from error

    def as_json(self) -> dict[str, dict[str, Any]]:
        """{key: value, words, source, whether it changes while the node runs}."""
        return {setting.key: self._entry(setting) for setting in TABLE}

    def _entry(self, setting: Setting) -> dict[str, Any]:
        value = self[setting.key]
        return {
            "value": value,
            "words": setting.kind.words(value),
            "source": self.source(setting.key),
            "live": setting.live,
        }

    def differing(self, other: "Configuration") -> list[str]:
        """Keys whose values are others there."""
        return [key for key in BY_KEY if self[key] != other[key]]
