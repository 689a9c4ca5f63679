"""How values are written: each reads back equal, and what is none is refused."""

from typing import Any

import pytest
from fuzzing import examples
from hypothesis import example, given
from hypothesis import strategies as st

from talkoot.peer.config.table import TABLE, Setting
from talkoot.peer.config.values import (
    SWITCH,
    Kind,
    celsius,
    choice,
    line_rate,
    perhaps,
    rate,
    seconds,
    share,
    size,
    texts,
    whole,
)

SHARE = share({"light": 0.33, "medium": 0.66, "full": 1.0})


@pytest.mark.parametrize(
    ("kind", "written", "value"),
    [
        (size(), "6GB", 6 * 10**9),
        (size(), "1.5 GiB", 3 * 2**29),
        (size(), "800M", 800 * 10**6),
        (size(), 4096, 4096),
        (size(), "0", 0),
        (rate(), "2MB/s", 2e6),
        (rate(), "16 Mbit/s", 2e6),
        (rate(), "500 kB", 5e5),
        (line_rate(1250, 125e9), "20", 2.5e6),
        (line_rate(1250, 125e9), 20, 2.5e6),
        (line_rate(1250, 125e9), "1 MB/s", 1e6),
        (seconds(0, 3600), "5 min", 300),
        (seconds(0, 3600), 30, 30),
        (seconds(0, 86400), "2h", 7200),
        (SHARE, "light", 0.33),
        (SHARE, "50%", 0.5),
        (SHARE, 0.25, 0.25),
        (celsius(30, 120), "80 °C", 80),
        (celsius(30, 120), 75, 75),
        (SWITCH, "yes", True),
        (SWITCH, False, False),
        (whole(0, 10), "7", 7),
        (texts("names"), "a, b,", ("a", "b")),
        (texts("names"), ["a", "b"], ("a", "b")),
        (texts("windows", separator=";"), "mon,tue 1:00-2:00; sat", ("mon,tue 1:00-2:00", "sat")),
        (perhaps(whole(0, 9), "manifest"), "manifest", None),
    ],
)
def test_people_write_it_so(kind: Kind, written: object, value: object) -> None:
    assert kind.read(written) == value
    assert kind.read(kind.write(value)) == value
    assert isinstance(kind.words(value), str)


@pytest.mark.parametrize(
    ("kind", "written"),
    [
        (size(), "much"),
        (size(), -1),
        (size(), True),
        (size(), "6 iB"),
        (size(least=1000), 999),
        (size(), float("nan")),
        (size(), [1]),
        (rate(), "fast"),
        (rate(), "-2MB/s"),
        (SHARE, 0),
        (SHARE, "0%"),
        (SHARE, "101%"),
        (SHARE, 50),
        (celsius(30, 120), 20),
        (seconds(10, 60), "5 s"),
        (SWITCH, "maybe"),
        (SWITCH, 1),
        (whole(0, 10), 11),
        (whole(0, 10), True),
        (whole(0, 10), "1.5"),
        (choice("a", "b"), "c"),
        (texts("names"), ["x"] * 65),
        (texts("names"), [1]),
        (texts("names"), "a\x1bb"),
        (texts("names"), ["x" * 1001]),
    ],
)
def test_what_is_none_is_refused(kind: Kind, written: object) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - the words come from the layer above
        kind.read(written)


@examples(200)
@given(st.integers(1, 2**60))
@example(10**15 + 1)
@example(2**60 - 1)
def test_sizes_read_back_equal(num_bytes: int) -> None:
    kind = size()
    assert abs(kind.read(kind.write(num_bytes)) - num_bytes) <= num_bytes * 2**-52


@pytest.mark.parametrize("setting", TABLE, ids=lambda setting: setting.key)
def test_every_default_reads_back_equal(setting: Setting) -> None:
    kind: Any = setting.kind
    assert kind.read(kind.write(setting.default)) == setting.default
    assert kind.read(kind.words(setting.default)) == setting.default or isinstance(setting.default, float)


@examples(100)
@given(st.text(max_size=30) | st.integers() | st.floats() | st.booleans() | st.lists(st.text(), max_size=3))
def test_nothing_but_value_errors(written: object) -> None:
    for setting in TABLE:
        try:
            value = setting.kind.read(written)
        except ValueError:
            continue
        setting.kind.words(value)
