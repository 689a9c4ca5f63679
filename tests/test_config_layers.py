"""Built in < profile < file < environment < flag; one line for what is wrong, with its place."""

from pathlib import Path

import pytest

from talkoot.dht.errors import ConfigError
from talkoot.peer.config.configuration import Configuration
from talkoot.peer.config.table import BY_KEY, PROFILE_VALUES, SECTIONS, TABLE
from talkoot.peer.guest.settings import GuestSettings
from talkoot.peer.options import PROFILES, RunOptions

FILE = """\
# mine
[node]
profile = "lowpower"

[limits]
upload = "2 MB/s"
download = "3 MB/s"
"""


def load(
    folder: Path,
    text: str = "",
    environment: dict[str, str] | None = None,
    flags: dict[str, tuple[str, object]] | None = None,
) -> Configuration:
    (folder / "config.toml").write_text(text)
    return Configuration.load(folder, environment or {}, flags)


def test_the_last_layer_wins_and_says_so(tmp_path: Path) -> None:
    found = load(
        tmp_path,
        FILE,
        {
            "TALKOOT_LIMITS_DOWNLOAD": "4MB/s",
            "TALKOOT_LIMITS_NICE": "5",
            "PATH": "/bin",
            "TALKOOT_INVITE": "x",
        },
        {"limits.nice": ("--set", "7")},
    )
    assert (found["limits.upload"], found.source("limits.upload")) == (2e6, "file")
    assert (found["limits.download"], found.source("limits.download")) == (4e6, "environment")
    assert (found["limits.nice"], found.source("limits.nice")) == (7, "flag")
    assert (found["limits.power"], found.source("limits.power")) == (0.33, "profile")
    assert (found["limits.quota"], found.source("limits.quota")) == (0, "default")
    options = found.options()
    assert (options.profile, options.guest.nice, options.guest.upload) == ("lowpower", 7, 2e6)


def test_without_anything_all_is_as_built_in(tmp_path: Path) -> None:
    found = Configuration.load(tmp_path, {})
    assert found.guest() == GuestSettings()
    options = found.options()
    plain = RunOptions(state_dir=tmp_path)
    assert all(
        getattr(options, name) == getattr(plain, name)
        for name in RunOptions.__slots__
        if name != "configuration"
    )


def test_every_limit_of_a_guest_has_its_place() -> None:
    filled = {goes for setting in TABLE for goes in setting.goes}
    assert filled >= {f"guest.{name}" for name in GuestSettings.__slots__}
    assert {setting.section for setting in TABLE} == set(SECTIONS)
    assert set(PROFILE_VALUES) == set(PROFILES)
    for values in PROFILE_VALUES.values():
        for key, value in values.items():
            kind = BY_KEY[key].kind
            assert kind.read(kind.write(value)) == value


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[limits]\nupload = true", ":2: limits.upload must be a rate such as 2 MB/s or 16 Mbit/s"),
        ("[limits]\n\nuplaod = 1", ":3: [limits] uplaod is unknown; did you mean upload?"),
        ("[limts]\nupload = 1", ":1: [limts] is unknown; did you mean limits?"),
        ("[node]\nupload = 1", ":2: [node] upload is unknown; did you mean limits.upload?"),
        ("limits = 3", ":1: limits must be a section: [limits]"),
        ('[node]\nprofile = "hoem"', ":2: node.profile must be one of home, server"),
        ("[limits]\npower = 0", ":2: limits.power must be light, medium, full, or a share over 0 %"),
        ("[limits]\ndisk = 5", ":2: limits.disk must be a size such as 6 GB or 512 MiB, at least 64 MiB"),
        ("[limits]\nquota = -1", ":2: limits.quota must be a size"),
        ("[limits]\nnice = 99", ":2: limits.nice must be 0 to 19, not 99"),
        ('[yield]\nprograms = ["/usr/bin/x"]', ":2: yield.programs must be names without a path"),
        ('[node]\npublic_name = "a  b"', ":2: node.public_name must be a public name has"),
        ("[limits\nupload = 1", ":1: "),
        ("[limits]\nupload = 1\nupload = 2", ":3: "),
    ],
)
def test_one_line_says_what_is_wrong_and_where(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, text)
    assert str(caught.value).startswith(str(tmp_path / "config.toml") + words)
    assert "\n" not in str(caught.value)


def test_a_bad_variable_or_flag_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^TALKOOT_LIMITS_NICE: limits\.nice must be 0 to 19, not 'x'$"):
        load(tmp_path, "", {"TALKOOT_LIMITS_NICE": "x"})
    with pytest.raises(ConfigError, match=r"did you mean TALKOOT_LIMITS_UPLOAD"):
        load(tmp_path, "", {"TALKOOT_LIMITS_UPLAOD": "1"})
    with pytest.raises(ConfigError, match=r"did you mean TALKOOT_LIMITS_UPLOAD"):
        load(tmp_path, "", {"TALKOOT_LIMIT_UPLOAD": "1"})
    with pytest.raises(ConfigError, match=r"^--power: limits\.power must be"):
        load(tmp_path, "", {}, {"limits.power": ("--power", "200%")})


def test_a_file_is_bounded_before_it_is_parsed(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"longer than 65536 bytes"):
        load(tmp_path, "#" * 65537)
    (tmp_path / "config.toml").write_bytes(b"\xff")
    with pytest.raises(ConfigError, match=r"not UTF-8"):
        Configuration.load(tmp_path, {})
    with pytest.raises(ConfigError, match=r"config\.toml"):
        load(tmp_path, "[limits]\nupload = " + "[" * 30000)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('windows = ["mon 08:00-08:00"]', ":2: schedule.windows has 'mon 08:00-08:00': it never opens"),
        ('windows = ["mon"]\ntimezone = "Europe/Helsinky"', ":3: schedule.timezone is 'Europe/Helsinky'"),
    ],
)
def test_a_schedule_that_cannot_be_is_found_at_its_line(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, "[schedule]\n" + text)
    assert str(caught.value).startswith(str(tmp_path / "config.toml") + words)
