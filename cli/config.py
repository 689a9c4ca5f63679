"""`talkoot config`: the settings of a node, in words, in its file, and in the node that runs."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from talkoot.cli.errors import NoDaemonError
from talkoot.cli.options import JsonOption, StateDirOption, state_path
from talkoot.cli.table import table
from talkoot.cli.words import as_json
from talkoot.dht.errors import ConfigError

if TYPE_CHECKING:
    from talkoot.peer.config.configuration import Configuration

app = typer.Typer(help="Show and change the settings of a node.", no_args_is_help=True, rich_markup_mode=None)


def _keys(incomplete: str) -> list[str]:
    """For the shell's completion."""
    from talkoot.peer.config.table import BY_KEY

    return [key for key in BY_KEY if key.startswith(incomplete)]


KeyArgument = Annotated[
    str, typer.Argument(metavar="KEY", help="Such as limits.upload.", autocompletion=_keys)
]


def _folder(state_dir: Path | None) -> Path:
    return state_path(state_dir).expanduser().absolute()


def _load(state_dir: Path | None) -> "Configuration":
    from talkoot.peer.config.configuration import Configuration

    return Configuration.load(_folder(state_dir), os.environ)


@app.command("init", short_help="Write a file with every setting explained.")
def init(
    state_dir: StateDirOption = None,
    profile: Annotated[str, typer.Option(help="home, server, lowpower, lan or test.")] = "home",
    force: Annotated[bool, typer.Option("--force", help="Write over the file that is there.")] = False,
) -> None:
    """Write config.toml into the state directory: every setting with its default and what it does."""
    from talkoot.peer.config.configuration import Configuration
    from talkoot.peer.config.text import toml_text

    chosen = {} if profile == "home" else {"node.profile": profile}
    configuration = Configuration.load(
        _folder(state_dir), {}, {"node.profile": ("--profile", profile)}, file=not force
    )
    if configuration.file.exists() and not force:
        raise ConfigError(
            f"{configuration.file} exists already: change it with talkoot config set, or --force"
        )
    _write(configuration, toml_text(chosen))
    typer.echo(f"{configuration.file}")


@app.command("list", short_help="Show all settings and where each comes from.")
def list_all(state_dir: StateDirOption = None, json: JsonOption = False) -> None:
    """Show all settings as a node would start with them, and where each comes from."""
    configuration = _load(state_dir)
    entries = configuration.as_json()
    if json:
        typer.echo(as_json(entries))
        return
    rows = [
        (key, entry["words"] or "-", entry["source"], "" if entry["live"] else "restart")
        for key, entry in entries.items()
    ]
    typer.echo(table(("setting", "value", "from", "takes"), rows, left=("setting", "value", "from", "takes")))


@app.command("get", short_help="Show one setting.")
def get(key: KeyArgument, state_dir: StateDirOption = None, json: JsonOption = False) -> None:
    """Show one setting as a node would start with it: its value alone, or all about it (--json)."""
    from talkoot.peer.config.layers import setting_of

    setting = setting_of(key)
    entry = _load(state_dir).as_json()[setting.key]
    typer.echo(as_json(entry | {"about": setting.about}) if json else entry["words"])


@app.command(
    "set",
    short_help="Change one setting; a running node takes it at once.",
    context_settings={"ignore_unknown_options": True},  # -1 is a value, and a bad one
)
def set_value(
    key: KeyArgument,
    value: Annotated[str, typer.Argument(metavar="VALUE", help="Such as 2MB/s; lists with commas.")],
    state_dir: StateDirOption = None,
    anyway: Annotated[bool, typer.Option("--anyway", help="Programs that are not found here, too.")] = False,
    json: JsonOption = False,
) -> None:
    """Change one setting in config.toml, keeping its comments. All is checked before anything is written."""
    from talkoot.peer.config.layers import Given, read, setting_of
    from talkoot.peer.config.text import with_value

    configuration = _load(state_dir)
    setting = setting_of(key)
    wanted = read(setting, Given(value, "file", str)).now
    if setting.key == "yield.programs" and not anyway:
        _require_found(wanted)
    if setting.key == "limits.quota":
        _require_unused(wanted, _folder(state_dir))
    if setting.key == "limits.disk":
        _require_room(wanted, _folder(state_dir))
    text = with_value(_text(configuration), setting, wanted)
    _change(configuration, text, setting.key, json=json)


@app.command("unset", short_help="Take a setting back to its default.")
def unset(key: KeyArgument, state_dir: StateDirOption = None, json: JsonOption = False) -> None:
    """Take one setting out of config.toml: its profile's default holds again."""
    from talkoot.peer.config.layers import setting_of
    from talkoot.peer.config.text import without_value

    configuration = _load(state_dir)
    setting = setting_of(key)
    _change(configuration, without_value(_text(configuration), setting), setting.key, json=json)


@app.command("check", short_help="Say whether the file and the environment are right.")
def check(state_dir: StateDirOption = None) -> None:
    """Check config.toml and the environment as a start would; one line for what is wrong, exit code 2."""
    configuration = _load(state_dir)
    what = str(configuration.file) if configuration.file.exists() else f"no {configuration.file}: defaults"
    typer.echo(f"{what}; profile {configuration['node.profile']}; nothing wrong")


@app.command("apply", short_help="Have a running node take the file as it is now.")
def apply(state_dir: StateDirOption = None, json: JsonOption = False) -> None:
    """Have the running node take config.toml as it is now, after somebody edited it."""
    from talkoot.cli.local_api import LocalApi

    _load(state_dir)
    answer = LocalApi(_folder(state_dir)).apply_settings()
    typer.echo(as_json(answer) if json else _applied_words(answer))


def _change(configuration: "Configuration", text: str, key: str, *, json: bool) -> None:
    """Check all of it, write it, and tell the node that runs."""
    from talkoot.cli.local_api import LocalApi

    new = configuration.with_text(text)
    _write(configuration, text)
    try:
        answer: dict[str, Any] | None = LocalApi(configuration.state_dir).apply_settings()
    except NoDaemonError:
        answer = None
    entry = new.as_json()[key]
    if json:
        typer.echo(as_json({"key": key, **entry, "node": answer}))
        return
    typer.echo(f"{key} = {entry['words'] or '(nothing)'}; {_news(key, entry, answer)}")


def _news(key: str, entry: dict[str, Any], answer: dict[str, Any] | None) -> str:
    """What it means for the node."""
    if entry["source"] in ("environment", "flag"):
        return f"the {entry['source']} has another value, which wins"
    if answer is None:
        return "no node runs: holds from its next start"
    if key in answer.get("overridden", ()):
        return "the running node was started with another value, which wins"
    if key in answer.get("restart", ()):
        return "the running node takes it after a restart"
    return "the running node has it"


def _applied_words(answer: dict[str, Any]) -> str:
    applied, waiting = answer.get("applied") or [], answer.get("restart") or []
    lines = [f"taken: {', '.join(applied)}" if applied else "nothing new"]
    lines += [f"after a restart: {', '.join(waiting)}"] if waiting else []
    return "\n".join(lines)


def _text(configuration: "Configuration") -> str:
    """Of the file; where there is none, of a new one."""
    from talkoot.peer.config.file import read_text
    from talkoot.peer.config.text import toml_text

    return read_text(configuration.file) if configuration.file.exists() else toml_text({})


def _write(configuration: "Configuration", text: str) -> None:
    from talkoot.peer.small_files import write_small
    from talkoot.peer.statedir import StateDir

    StateDir(configuration.state_dir).prepare()
    write_small(configuration.file, text.encode())


def _require_found(programs: tuple[str, ...]) -> None:
    """Raise ConfigError for the name of a program that is neither installed nor running here."""
    from talkoot.peer.guest.program_names import require_known
    from talkoot.peer.guest.senses.processes import Processes

    require_known(programs, {name for process in Processes().look() for name in process.names})


def _require_room(limit: int, folder: Path) -> None:
    """Raise ConfigError for a limit that the state of the folder's swarm does not fit into: no start would
    succeed with it."""
    from talkoot.peer.guest.room import require_limit
    from talkoot.peer.membership import load_manifest
    from talkoot.peer.statedir import StateDir

    manifest = load_manifest(StateDir(folder))
    if manifest is not None:
        require_limit(manifest, limit)


def _require_unused(quota: int, folder: Path) -> None:
    """Raise ConfigError for a quota that is used up already, as the running node says, or its file."""
    from talkoot.cli.words import size
    from talkoot.peer.guest.quota import kept_month
    from talkoot.peer.statedir import StateDir

    used = _used_now(folder)
    if used is None:
        used = kept_month(StateDir(folder).quota).used
    if 0 < quota <= used:
        raise ConfigError(
            f"limits.quota: {size(quota)} are used up already ({size(used)} this month): set more"
        )


def _used_now(folder: Path) -> float | None:
    """Bytes of this month, where a node runs."""
    from talkoot.cli.local_api import LocalApi

    try:
        used = LocalApi(folder).status().get("settings", {}).get("limits.quota", {}).get("used")
    except NoDaemonError:
        return None
    return used if isinstance(used, int | float) else None
