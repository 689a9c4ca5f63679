"""Every bad input gives one line that says what is wrong, an exit code, and damages nothing."""

import base64
import json
import shutil
import socket
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from bad_input_rig import draft, found_in, invite_to, refused, sealed_of, tree

from talkoot.dht.identity import Identity
from talkoot.peer import daemon, founding, invite, node, presets
from talkoot.peer.statedir import StateDir

Capsys = pytest.CaptureFixture[str]

LLAMA = {
    "model_type": "llama",
    "vocab_size": 256,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "max_position_embeddings": 64,
}


@pytest.fixture(scope="module")
def founded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which a swarm was founded; tests work on copies."""
    return found_in(tmp_path_factory.mktemp("founded"))


@pytest.fixture
def state(founded: Path, tmp_path: Path) -> Path:
    """A copy of the founder's state directory."""
    shutil.copytree(founded / "state", tmp_path / "state")
    return tmp_path / "state"


# -- the manifest ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("batch_size = ", "bach_size = ", ["[inner] bach_size is unknown", "did you mean batch_size?"]),
        ("[outer]", "[outr]", ["outr is unknown", "did you mean outer?"]),
        ("inner_steps = 20", 'inner_steps = "20"', ["[outer] inner_steps must be a whole number"]),
        ("inner_steps = 20", "inner_steps = 0", ["outer.inner_steps must be 1 to 1000000"]),
        ("inner_steps = 20", "inner_steps = ", ["Invalid value"]),
        ('codec = "int8"', 'codec = "int9"', ["[compression] codec", "int8"]),
    ],
)
def test_manifest(capsys: Capsys, tmp_path: Path, old: str, new: str, words: list[str]) -> None:
    path = draft(tmp_path / "swarm")
    lines = path.read_text().splitlines()
    number = next(index for index, line in enumerate(lines) if line.startswith(old))
    lines[number] = lines[number].replace(old, new)
    path.write_text("\n".join(lines))
    outcome = refused(capsys, "run", path, "--state-dir", tmp_path / "state")
    assert outcome.code == 2
    assert outcome.line.startswith(f"{path}:{number + 1}: ")
    for word in words:
        assert word in outcome.line
    assert not (tmp_path / "state").exists()


def test_a_manifest_that_is_not_there(capsys: Capsys, tmp_path: Path) -> None:
    outcome = refused(capsys, "run", tmp_path / "none.toml", "--state-dir", tmp_path / "state")
    assert (outcome.code, outcome.line) == (2, f"{tmp_path / 'none.toml'}: No such file or directory")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model_type": "lama"}, "lama"),
        ({"hidden_size": "wide"}, "model.config does not build"),
        ({"vocab_size": 100}, "model.config.vocab_size is 100"),
        ({"hidden_size": 2**20, "num_hidden_layers": 4096}, "parameters"),
    ],
)
def test_a_model_that_does_not_build(
    capsys: Capsys, tmp_path: Path, changes: dict[str, object], words: str
) -> None:
    path = draft(tmp_path / "swarm", model={"kind": "transformers", "config": {**LLAMA, **changes}})
    outcome = refused(capsys, "run", path, "--state-dir", tmp_path / "state")
    assert outcome.code == 2
    assert words in outcome.line
    assert set(tree(tmp_path / "state")) == {"identity.key"}


def test_a_founding_that_was_cut_off_can_be_done_again(capsys: Capsys, founded: Path, tmp_path: Path) -> None:
    shutil.copytree(founded / "state" / "outer", tmp_path / "outer")
    paths = StateDir(tmp_path)
    sealed = founding.found(presets.make("numpy-test", name="again"), tmp_path, paths, Identity.generate())
    assert paths.swarm_id == sealed.swarm_id


def test_another_manifest_on_the_same_state(capsys: Capsys, state: Path, tmp_path: Path) -> None:
    before = tree(state)
    path = draft(tmp_path / "swarm", outer={"inner_steps": 21})
    outcome = refused(capsys, "run", path, "--state-dir", state)
    assert outcome.code == 2
    assert "founded from another manifest: choose another --state-dir" in outcome.line
    assert tree(state) == before


def test_a_draft_where_another_swarm_was_joined(capsys: Capsys, founded: Path, tmp_path: Path) -> None:
    paths = StateDir(tmp_path / "state")
    paths.prepare()
    paths.claim(bytes(32))
    outcome = refused(capsys, "run", draft(tmp_path / "swarm"), "--state-dir", paths.path)
    assert outcome.code == 2
    assert "belongs to swarm 000000000000" in outcome.line
    assert set(tree(paths.path)) == {"identity.key", "swarm"}


def test_a_sealed_manifest_of_others_and_nobody_to_ask(capsys: Capsys, founded: Path, tmp_path: Path) -> None:
    outcome = refused(capsys, "run", founded / "swarm.toml", "--state-dir", tmp_path / "state")
    assert outcome.code == 2
    assert "--join INVITE" in outcome.line
    assert "--bootstrap ADDR" in outcome.line
    assert set(tree(tmp_path / "state")) == {"identity.key"}


# -- data, device and other options ------------------------------------------------------------------


@pytest.mark.parametrize("data", [[], ["--data", "mine/*.txt"]])
def test_data_that_is_not_there(capsys: Capsys, tmp_path: Path, data: list[str]) -> None:
    path = draft(tmp_path / "swarm", data={"source": "text", "paths": ("books/*.txt",)})
    outcome = refused(capsys, "run", path, "--state-dir", tmp_path / "state", *data)
    assert outcome.code == 2
    assert ("--data" if data else "data.paths: 'books/*.txt' matches no file") in outcome.line
    assert set(tree(tmp_path / "state")) == {"identity.key"}


def test_data_that_has_no_name(capsys: Capsys, tmp_path: Path) -> None:
    path = draft(tmp_path / "swarm", data={"source": "text", "paths": ("books/*.txt",)})
    outcome = refused(capsys, "run", path, "--state-dir", tmp_path / "state", "--data", "")
    assert outcome.code == 2
    assert "--data" in outcome.line
    assert not (tmp_path / "state").exists()


def test_data_with_nothing_in_it(capsys: Capsys, tmp_path: Path) -> None:
    path = draft(tmp_path / "swarm", data={"source": "text", "paths": ("books/*.txt",)})
    (tmp_path / "swarm" / "books").mkdir()
    (tmp_path / "swarm" / "books" / "a.txt").touch()
    outcome = refused(capsys, "run", path, "--state-dir", tmp_path / "state")
    assert outcome.code == 2
    assert "data.paths: there is nothing in " in outcome.line


def test_a_tokenizer_that_is_not_there(capsys: Capsys, tmp_path: Path) -> None:
    path = draft(tmp_path / "swarm", data={"tokenizer": "tokenizer.json"})
    outcome = refused(capsys, "run", path, "--state-dir", tmp_path / "state")
    assert outcome.code == 2
    assert "data.tokenizer: there is no file" in outcome.line


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--threads", "-1"], "--threads: limits.threads must be 0 to 1024, not -1"),
        (["--memory-limit", "much"], "--memory-limit: limits.gpu_memory must be a size such as 6 GB"),
        (
            ["--device", "banana"],
            "--device: node.device must be auto, cpu, cuda, cuda:N or mps, not",
        ),
        (["--device", "cuda"], "--device cuda: there is none here; --device auto"),
        (["--profile", "moon"], "--profile: node.profile must be one of home, server, lowpower, lan, test"),
        (["--role", "boss"], "role must be one of full, client"),
        (["--port", "70000"], "port must be 0 to 65535"),
        (["--bootstrap", "nowhere"], "bootstrap: 'nowhere' is not an address of a peer"),
        (["--bootstrap", "/ip4/10.0.0.1/tcp/4001"], "does not end in /p2p/<peer id>"),
        (["--announce", "me"], "announce: 'me' is not an address"),
        (["--listen", "/ip4/0.0.0.0"], "listen: '/ip4/0.0.0.0' is no IP address such as 0.0.0.0"),
        (["--join", "talkoot://x"], "give a manifest or an invite, not both"),
    ],
)
def test_options(
    capsys: Capsys,
    founded: Path,
    state: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: list[str],
    words: str,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    before = tree(state)
    profile = [] if "--profile" in options else ["--profile", "test"]
    outcome = refused(capsys, "run", founded / "swarm.toml", "--state-dir", state, *profile, *options)
    assert outcome.code == 2
    assert words in outcome.line
    assert tree(state).items() >= before.items()


@pytest.mark.parametrize("option", ["--port", "--http-port"])
def test_a_port_in_use(capsys: Capsys, state: Path, option: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        outcome = refused(capsys, "run", "--state-dir", state, "--profile", "test", option, port)
    assert outcome.code == 2
    assert f"port {port} cannot be used" in outcome.line
    assert f"choose another {option}" in outcome.line


# -- invites -----------------------------------------------------------------------------------------


def of_another_version(text: str) -> str:
    body = text.removeprefix(invite.SCHEME)
    data = base64.urlsafe_b64decode(body + "=" * (-len(body) % 4))
    return invite.SCHEME + base64.urlsafe_b64encode(bytes([99]) + data[1:]).decode().rstrip("=")


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda text: text[:-20], "cut short; copy it again"),
        (lambda text: text[:40] + ("A" if text[40] != "A" else "B") + text[41:], "checksum"),
        (lambda text: "hello", "it must begin with talkoot://"),
        (lambda text: text[:30] + "!" + text[31:], "characters that do not belong there"),
        (lambda text: invite.SCHEME + "A" * 9000, "too long"),
        (of_another_version, "protocol version 99, this talkoot speaks 1; update talkoot"),
    ],
)
def test_invites(
    capsys: Capsys, founded: Path, tmp_path: Path, spoil: Callable[[str], str], words: str
) -> None:
    text = spoil(invite_to(founded))
    outcome = refused(capsys, "run", "--join", text, "--state-dir", tmp_path / "state")
    assert outcome.code == 2
    assert words in outcome.line
    assert not (tmp_path / "state").exists()


def test_an_expired_invite(capsys: Capsys, founded: Path, tmp_path: Path) -> None:
    text = invite_to(founded, expires=1_700_000_000)
    outcome = refused(capsys, "run", "--join", text, "--state-dir", tmp_path / "state")
    assert outcome.code == 2
    assert "the invite expired on 2023-11-14: ask for a new one" in outcome.line
    assert set(tree(tmp_path / "state")) == {"identity.key"}


def test_an_invite_to_another_swarm(capsys: Capsys, founded: Path, state: Path) -> None:
    before = tree(state)
    outcome = refused(capsys, "run", "--join", invite_to(founded, swarm=bytes(32)), "--state-dir", state)
    assert outcome.code == 2
    assert "not to 000000000000: choose another --state-dir" in outcome.line
    assert tree(state) == before


def test_a_swarm_by_invitation_and_an_invite_without_key(
    capsys: Capsys, founded: Path, tmp_path: Path
) -> None:
    paths = StateDir(tmp_path / "state")
    paths.prepare()
    paths.save_manifest(sealed_of(founded).canonical())
    outcome = refused(capsys, "run", "--join", invite_to(founded, key=False), "--state-dir", paths.path)
    assert outcome.code == 2
    assert "by invitation only" in outcome.line
    assert "talkoot invite" in outcome.line


def test_a_swarm_with_a_list_that_we_are_not_on(capsys: Capsys, founded: Path, tmp_path: Path) -> None:
    paths, sealed = StateDir(tmp_path / "state"), sealed_of(founded)
    listed = Identity.from_seed(b"l" * 32).peer_id
    swarm = replace(sealed.swarm, admission="allowlist", allowlist=(listed,))
    manifest = replace(sealed, swarm=swarm)
    paths.prepare()
    paths.save_manifest(manifest.canonical())
    invite = invite_to(founded, key=False, swarm=manifest.swarm_id)
    outcome = refused(capsys, "run", "--join", invite, "--state-dir", paths.path)
    assert outcome.code == 2
    assert "swarm.allowlist" in outcome.line
    assert "--role observer" in outcome.line


def test_a_list_of_what_is_no_peer(capsys: Capsys, tmp_path: Path) -> None:
    path = draft(tmp_path, swarm={"name": "s", "admission": "allowlist", "allowlist": ["12D3Koo"]})
    outcome = refused(capsys, "run", path, "--state-dir", tmp_path / "state")
    assert outcome.code == 2
    assert outcome.line.startswith("swarm.allowlist: ")


@pytest.mark.processes
def test_nobody_of_the_invite_can_be_reached(
    capsys: Capsys, founded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(node, "FIRST_CONTACT_S", 0.5)
    arguments = ("run", "--state-dir", tmp_path / "state", "--profile", "test")
    outcome = refused(capsys, *arguments, "--join", invite_to(founded))
    assert outcome.code == 1
    assert "no peer of the invite can be reached" in outcome.line
    outcome = refused(capsys, *arguments)  # the invite is remembered
    assert outcome.code == 1
    assert "no peer of the invite can be reached" in outcome.line


# -- commands without a daemon -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["status"], 3, "no daemon runs on"),
        (["status", "--json"], 3, "start one with: talkoot run"),
        (["invite"], 3, "no daemon runs on"),
        (["id"], 2, "has no key yet"),
        (["export", "{}/out"], 2, "holds no swarm"),
        (["generate", "hello"], 2, "holds no swarm"),
    ],
)
def test_commands_without_a_daemon(
    capsys: Capsys, tmp_path: Path, arguments: list[str], code: int, words: str
) -> None:
    given = [argument.format(tmp_path) for argument in arguments]
    outcome = refused(capsys, *given, "--state-dir", tmp_path / "state")
    assert outcome.code == code
    assert words in outcome.line
    assert not (tmp_path / "state").exists()


def test_an_unforeseen_fault_is_logged_in_full(
    capsys: Capsys, state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_arguments: object) -> None:
        raise ExceptionGroup("tasks", [ZeroDivisionError("division by zero")])

    monkeypatch.setattr(daemon, "_serve", fail)
    outcome = refused(capsys, "run", "--state-dir", state, "--profile", "test", unforeseen=True)
    assert outcome.code == 1
    assert "ZeroDivisionError: division by zero" in outcome.line
    assert "Traceback" in json.loads(outcome.log.splitlines()[-1])["exception"]
