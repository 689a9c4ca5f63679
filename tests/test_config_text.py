"""The commented file: complete, and changed without losing what somebody wrote into it."""

import tomllib
from pathlib import Path

import pytest

from talkoot.peer.config.file import of_text
from talkoot.peer.config.reference import page
from talkoot.peer.config.table import BY_KEY, TABLE, Setting
from talkoot.peer.config.text import toml_text, with_value, without_value

UPLOAD = BY_KEY["limits.upload"]
OWN = """\
# a remark of mine
[limits] # another
upload = "2 MB/s" # for the neighbours
download = "none"

[yield]
programs = [
  "blender", # renders
  "obs",
]
"""


def test_a_new_file_sets_nothing_and_explains_all() -> None:
    text = toml_text({})
    assert of_text(text, name="x") == {}
    assert all(f"\n# {setting.name} = " in text for setting in TABLE)
    assert all(len(line) <= 110 for line in text.splitlines())


@pytest.mark.parametrize("setting", TABLE, ids=lambda setting: setting.key)
def test_each_setting_takes_the_place_of_its_comment_and_gives_it_back(setting: Setting) -> None:
    before = toml_text({})
    text = with_value(before, setting, setting.default)
    assert of_text(text, name="x").keys() == {setting.key}
    assert text.count("\n") == before.count("\n")
    assert without_value(text, setting) == before


def test_what_somebody_wrote_stays() -> None:
    text = with_value(OWN, UPLOAD, 5e6)
    assert text == OWN.replace('"2 MB/s"', '"5 MB/s"')
    text = with_value(text, BY_KEY["limits.nice"], 3)
    text = with_value(text, BY_KEY["energy.price"], 0.3)
    values = tomllib.loads(text)
    assert (values["limits"]["nice"], values["energy"]["price"]) == (3, 0.3)
    assert all(remark in text for remark in ("# a remark of mine", "# another", "# for the neighbours"))
    text = without_value(text, BY_KEY["yield.programs"])
    assert "programs" not in tomllib.loads(text)["yield"]


def test_a_comment_in_another_section_is_left_alone() -> None:
    text = "[node]\n# upload = 1\n[limits]\n# upload = 2\n"
    assert with_value(text, UPLOAD, 3e6) == '[node]\n# upload = 1\n[limits]\nupload = "3 MB/s"\n'


def test_the_page_is_the_tables() -> None:
    path = Path(__file__).parent.parent / "docs" / "configuration.md"
    hint = "run: python -m talkoot.peer.config.reference > docs/configuration.md"
    assert path.read_text() == page(), hint
