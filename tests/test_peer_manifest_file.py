"""Manifests as TOML: they read back unchanged, and every mistake is one line that names its place."""

from dataclasses import fields, replace
from pathlib import Path

import pytest
from fuzzing import examples
from hypothesis import given
from hypothesis import strategies as st

from talkoot.dht.errors import ConfigError
from talkoot.peer import manifest_file, manifest_text, presets
from talkoot.peer.manifest import Manifest, Model
from talkoot.peer.manifest_text import toml_text

TINY = toml_text(presets.make("tiny", name="test swarm"))


def parse(text: str) -> Manifest:
    return manifest_file.parse(text, name="talkoot.toml")


@pytest.mark.parametrize("preset", [*presets.PRESETS, "numpy-test"])
def test_presets_read_back_unchanged(preset: str) -> None:
    manifest = presets.make(preset, name='a "quoted" \\ näme\x7f')
    assert parse(toml_text(manifest)) == manifest
    assert parse(toml_text(manifest)).swarm_id == manifest.swarm_id


def test_sealed_manifest_reads_back_unchanged() -> None:
    draft = presets.make("tiny", name="test swarm")
    sealed = replace(
        draft,
        swarm=replace(draft.swarm, founders=("12D3KooWa", "12D3KooWb")),
        model=replace(draft.model, layout="00" * 32, numel=123),
    )
    assert sealed.sealed
    assert parse(toml_text(sealed)).swarm_id == sealed.swarm_id


plain = st.recursive(
    st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@examples(100)
@given(st.dictionaries(st.text(), plain, max_size=3))
def test_any_model_config_reads_back_unchanged(config: dict[str, object]) -> None:
    try:
        model = Model(config={"model_type": "llama", **config})
    except ValueError:
        return
    manifest = replace(presets.make("tiny", name="s"), model=model)
    assert parse(toml_text(manifest)).canonical() == manifest.canonical()


def test_every_field_is_explained() -> None:
    docs = manifest_text.field_docs()
    for _, section in manifest_text.sections():
        for item in fields(section):
            assert len(docs[section.__name__, item.name]) > 8
            words = docs[section.__name__, item.name].split()[0].strip("`:.,")
            assert words in TINY or item.name in ("founders", "layout", "numel", "tokenizer_hash")


def test_reference_page_is_up_to_date() -> None:
    page = Path(__file__).parent.parent / "docs" / "manifest.md"
    hint = "run: python -m talkoot.peer.manifest_text > docs/manifest.md"
    assert page.read_text() == manifest_text.reference_page(), hint


def line(text: str) -> int:
    """Line of TINY on which `text` stands."""
    return TINY[: TINY.index(text)].count("\n") + 1


MISTAKES = [
    (
        "learning_rate = 0.003",
        "learnign_rate = 3",
        "[inner] learnign_rate is unknown; did you mean learning_rate?",
    ),
    ("learning_rate = 0.003", 'learning_rate = "x"', "[inner] learning_rate must be a number"),
    ("learning_rate = 0.003", "learning_rate = 3", "inner.learning_rate must be above 0, at most 1"),
    ("learning_rate = 0.003", "learning_rate = nan", "inner.learning_rate must be above 0, at most 1"),
    ("batch_size = 16", "batch_size = 16.5", "[inner] batch_size must be a whole number"),
    ("batch_size = 16", "batch_size = true", "[inner] batch_size must be a whole number"),
    ("compile = false", "compile = 0", "[inner] compile must be true or false"),
    ("[inner]", "[iner]", "iner is unknown; did you mean inner?"),
    ("[inner]", "[inner", "Expected ']' at the end of a table declaration"),
    ('name = "test swarm"', "", "[swarm] name is missing"),
    ('name = "test swarm"', 'name = ""', "swarm.name must be 1 to 64 characters"),
    ('source = "stdlib"', 'source = "stdlb"', "[data] source must be one of"),
    ("paths = []", "paths = [1,\n\n2]", "[data] paths must be a list of strings"),
    ("paths = []", 'paths = "x"', "[data] paths must be a list of strings"),
    ('model_type = "llama"', "", "[model.config] model_type is missing"),
    ("vocab_size = 256", "vocab_size = 2026-01-01", "model.config.vocab_size must be"),
    ("protocol = 1", "protocol = 2", "made for protocol 2; this version of talkoot speaks 1"),
    ("protocol = 1", "inner = 2\n", "Cannot overwrite a value"),
    ('codec = "int8"', 'codec = "Int 8"', "compression.codec must be a codec's name"),
    ('aggregate_codec = "auto"', 'aggregate_codec = "topk:64"', "aggregate_codec must be one that needs no"),
    ("hostile_share = 0.25", "hostile_share = 0.5", "robustness.hostile_share must be 0 to 0.49"),
    ('rule = "mean"', 'rule = "median"', "[robustness] rule must be one of"),
    ('error_feedback = "auto"', "error_feedback = 1", 'error_feedback must be true or false, or "auto"'),
    ('error_feedback = "auto"', 'error_feedback = "on"', 'error_feedback must be true or false, or "auto"'),
]


@pytest.mark.parametrize(("old", "new", "words"), MISTAKES)
def test_a_mistake_is_one_line_with_its_place(old: str, new: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(TINY.replace(old, new, 1))
    message = str(caught.value)
    assert words in message
    assert "\n" not in message
    name, number, _ = message.split(":", 2)
    assert name == "talkoot.toml"
    if new and "Cannot overwrite" not in words:  # a missing key points at its section
        assert int(number) == line(old)


@pytest.mark.parametrize(
    ("setting", "changed", "key"),
    [
        ('\nexchange = "dense"', '\nexchange = "sparse"', "rule"),
        ('\ncodec = "int8"', '\ncodec = "topk:64"', "rule"),
    ],
)
def test_rules_that_make_no_sense_of_sparse_contributions_are_refused(
    setting: str, changed: str, key: str
) -> None:
    text = TINY.replace('rule = "mean"', 'rule = "centered_clip"', 1)
    assert parse(text).robustness.rule == "centered_clip"
    with pytest.raises(ConfigError) as caught:
        parse(text.replace(setting, changed, 1))
    message = str(caught.value)
    assert message.startswith(f"talkoot.toml:{line(key + ' = ')}: robustness.{key} must be ")
    assert "vote for 0" in message
    assert "\n" not in message


def test_missing_section() -> None:
    with pytest.raises(ConfigError, match=r"^talkoot\.toml: section \[model\] is missing$"):
        parse('[swarm]\nname = "x"\n')


def test_line_after_a_multi_line_string_that_looks_like_a_key() -> None:
    text = (
        '[swarm]\ndescription = """\nlearnign = 1\n"""\nname = "x"\nlearnign = 2\n[model]\nkind = "numpy"\n'
    )
    with pytest.raises(ConfigError, match=r"^talkoot\.toml:6: \[swarm\] learnign is unknown"):
        parse(text)


@examples(100)
@given(st.text(max_size=200))
def test_any_text_is_read_or_refused_in_one_line(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(text)
    assert "\n" not in str(caught.value).removeprefix("talkoot.toml")


def test_files(tmp_path: Path) -> None:
    manifest = presets.make("small", name="on disk")
    manifest_file.save(manifest, tmp_path / "talkoot.toml")
    assert manifest_file.load(tmp_path) == (manifest, tmp_path.resolve())
    assert manifest_file.load(tmp_path / "talkoot.toml") == (manifest, tmp_path.resolve())
    assert [entry.name for entry in tmp_path.iterdir()] == ["talkoot.toml"]


def test_unreadable_files(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"talkoot\.toml: No such file"):
        manifest_file.load(tmp_path)
    (tmp_path / "talkoot.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="not UTF-8"):
        manifest_file.load(tmp_path)
    (tmp_path / "talkoot.toml").write_bytes(b"#" * 70_000)
    with pytest.raises(ConfigError, match="longer than"):
        manifest_file.load(tmp_path)


def test_deeply_nested_file_is_refused() -> None:
    with pytest.raises(ConfigError):
        parse("a = " + "[" * 5000 + "]" * 5000)


def test_unknown_preset_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean tiny"):
        presets.make("tinny", name="x")
    with pytest.raises(ConfigError, match="known: tiny, small, lan, public"):
        presets.make("zzz", name="x")


def test_an_unknown_codec_is_refused_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "talkoot.toml"
    path.write_text(TINY.replace('aggregate_codec = "auto"', 'aggregate_codec = "int7"'))
    manifest, _ = manifest_file.load(tmp_path)
    with pytest.raises(ConfigError, match=rf"^{path}:{line('aggregate_codec')}: \[compression\] .*'int7'"):
        manifest_file.require_codecs(manifest, tmp_path)
    manifest_file.require_codecs(parse(TINY), tmp_path)
