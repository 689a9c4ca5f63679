"""`talkoot service`: have systemd run the node, start it again, and watch it."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from talkoot.cli.errors import CommandError
from talkoot.cli.options import StateDirOption, state_path
from talkoot.dht.errors import ConfigError

if TYPE_CHECKING:
    from talkoot.peer.guest.unit import Scope

app = typer.Typer(no_args_is_help=True, help="Have systemd run the node and watch it.")

SystemOption = Annotated[
    bool, typer.Option("--system/--user", help="For the whole machine (needs root), or for this user.")
]

SYSTEM_FOLDER = Path("/etc/systemd/system")
SYSTEM_SECRETS = Path("/etc/talkoot/service.env")
RUNNING = Path("/run/systemd/system")
"""There where systemd runs."""
LIMIT_S = 150.0
"""How long one call of systemctl may take: an orderly stop is among them."""


@app.command("install")
def install(
    arguments: Annotated[
        list[str] | None, typer.Argument(metavar="[-- OPTIONS]", help="More options of `talkoot run`.")
    ] = None,
    system: SystemOption = False,
    state_dir: StateDirOption = None,
    join: Annotated[
        str | None, typer.Option(metavar="INVITE", help="Join by an invite at the first start.")
    ] = None,
    show: Annotated[bool, typer.Option("--print", help="Print the unit; change nothing.")] = False,
    start: Annotated[bool, typer.Option("--start/--no-start", help="Start it now, and at each boot.")] = True,
) -> None:
    """Write the unit, and start it now and at each boot.

    The state directory of a node that has joined already is gone on with; else give --join INVITE.
    """
    from talkoot.peer.guest.unit import NAME, SYSTEM_STATE, Service, text_of

    scope: Scope = "system" if system else "user"
    if system and state_dir is not None:
        raise ConfigError("a system service keeps its state in /var/lib/talkoot: leave --state-dir away")
    folder, secrets = _places(scope)
    path = state_path(state_dir).absolute()
    if not show:
        _check_invite(join, Path(SYSTEM_STATE) if system else path, secrets)
        _require_systemd(scope)
    without = frozenset[str]() if system or show else _refused_walls()
    try:
        text = text_of(
            Service(
                scope=scope,
                command=_command(scope),
                state_dir=str(path),
                arguments=tuple(arguments or ()),
                environment_file=str(secrets),
                without=without,
            )
        )
    except ValueError as error:
        raise ConfigError(str(error)) from error
    if show:
        typer.echo(text, nl=False)
        return
    _write(folder / NAME, text, 0o644)
    if join is not None:
        _write(secrets, f"TALKOOT_JOIN={''.join(join.split())}\n", 0o600)
    if not system:
        path.mkdir(parents=True, exist_ok=True, mode=0o700)  # a wall is built around what is there
    _systemctl(scope, "daemon-reload")
    if start:
        _systemctl(scope, "enable", NAME)
        _systemctl(scope, "restart", "--no-block", NAME)
    typer.echo(f"{folder / NAME} is written{', and started' if start else ''}.")
    if without:
        typer.echo(
            f"This machine refuses these walls to users, the unit is without: {', '.join(sorted(without))}"
        )
    if not system:
        typer.echo("It runs while you are logged in; to have it run always: loginctl enable-linger")
    typer.echo(f"Look at it: talkoot service status{' --system' if system else ''}")


@app.command("uninstall")
def uninstall(system: SystemOption = False) -> None:
    """Stop the service in order, and remove its unit. The node's state stays."""
    from talkoot.peer.guest.unit import NAME, SYSTEM_STATE

    scope: Scope = "system" if system else "user"
    folder, secrets = _places(scope)
    if not (folder / NAME).exists():
        raise CommandError(f"there is no {folder / NAME}: nothing is installed")
    _require_systemd(scope)
    _systemctl(scope, "disable", "--now", NAME)
    try:
        (folder / NAME).unlink()
        secrets.unlink(missing_ok=True)
    except OSError as error:
        _refused(error)
    _systemctl(scope, "daemon-reload")
    kept = SYSTEM_STATE if system else "its state directory"
    typer.echo(f"The service is removed. What the node has learned and its identity stay in {kept}.")


@app.command("status")
def status(system: SystemOption = False) -> None:
    """Whether it is installed and runs, since when, what it says, and how often it was started again."""
    from talkoot.peer.guest.unit import NAME

    scope: Scope = "system" if system else "user"
    folder, _ = _places(scope)
    if not (folder / NAME).exists():
        raise CommandError(f"there is no {folder / NAME}: install it with talkoot service install")
    _require_systemd(scope)
    wanted = ("ActiveState", "SubState", "StatusText", "NRestarts", "ActiveEnterTimestamp", "UnitFileState")
    told = _systemctl(scope, "show", NAME, "--property", ",".join(wanted))
    found = dict(line.split("=", 1) for line in told.splitlines() if "=" in line)
    typer.echo(f"{folder / NAME}")
    typer.echo(f"  {found.get('ActiveState', '?')} ({found.get('SubState', '?')})")
    for name, words in (
        ("StatusText", "says"),
        ("ActiveEnterTimestamp", "since"),
        ("UnitFileState", "at boot"),
        ("NRestarts", "restarts"),
    ):
        if found.get(name):
            typer.echo(f"  {words}: {found[name]}")


def _places(scope: "Scope") -> tuple[Path, Path]:
    """Folder of the unit, and the file of secrets beside it."""
    if scope == "system":
        return SYSTEM_FOLDER, SYSTEM_SECRETS
    config = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    return config / "systemd" / "user", config / "talkoot" / "service.env"


def _command(scope: "Scope") -> list[str]:
    """How this very program is started again. Raises ConfigError where its user could not reach it."""
    beside = Path(sys.executable).with_name("talkoot")
    command = [str(beside)] if beside.exists() else [sys.executable, "-m", "talkoot.cli.main"]
    hidden = any(Path(command[0]).is_relative_to(home) for home in ("/home", "/root"))
    if scope == "system" and hidden:
        raise ConfigError(
            f"{command[0]} is in somebody's home, which a system service does not see: install talkoot for "
            "all (pipx install --global talkoot), or use --user"
        )
    return command


def _check_invite(join: str | None, path: Path, secrets: Path) -> None:
    """Raises ConfigError where the service could not know which swarm it is for. `path`: its state."""
    from talkoot.peer import invite
    from talkoot.peer.statedir import StateDir

    if join is not None:
        try:
            invite.decode(join)
        except ValueError as error:
            raise ConfigError(str(error)) from error
    elif StateDir(path).swarm_id is None and not secrets.exists():
        raise ConfigError(f"{path} holds no swarm yet: give --join INVITE")


def _refused_walls() -> frozenset[str]:
    """The keys with which this user's systemd cannot start a program here; tried, because nothing tells."""
    from talkoot.peer.guest.unit import WALLS

    def starts(*walls: str) -> bool:
        keys = [word for wall in walls for word in ("--property", wall)]
        command = ["systemd-run", "--user", "--wait", "--quiet", "--collect", *keys, "true"]
        try:
            done = subprocess.run(command, capture_output=True, check=False, timeout=LIMIT_S)  # noqa: S603 - systemd's
        except (OSError, subprocess.TimeoutExpired):
            return False
        return done.returncode == 0

    walls = [*WALLS.splitlines(), "ProtectHome=read-only"]
    if starts(*walls):
        return frozenset()
    return frozenset(wall.partition("=")[0] for wall in walls if not starts(wall))


def _require_systemd(scope: "Scope") -> None:
    if shutil.which("systemctl") is None or not RUNNING.is_dir():
        raise CommandError(
            "systemd does not run on this machine: talkoot service install --print shows the unit; "
            "otherwise start `talkoot run` as you start other programs"
        )
    if scope == "system" and os.geteuid() != 0:
        raise CommandError("a system service needs root: sudo talkoot service ... --system")


def _systemctl(scope: "Scope", *words: str) -> str:
    """What it prints. Raises CommandError with its own words."""
    command = ["systemctl", *(["--user"] if scope == "user" else []), "--no-pager", *words]
    try:
        done = subprocess.run(  # noqa: S603 - systemd's
            command, capture_output=True, text=True, check=False, timeout=LIMIT_S
        )
    except subprocess.TimeoutExpired as error:
        raise CommandError(f"{' '.join(command)}: no answer in {LIMIT_S:.0f} s") from error
    if done.returncode:
        raise CommandError(f"{' '.join(command)}: {done.stderr.strip() or f'exit code {done.returncode}'}")
    return done.stdout


def _write(path: Path, text: str, mode: int) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        new = path.with_name(f".{path.name}.new")
        new.unlink(missing_ok=True)
        with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "w") as file:
            file.write(text)
        new.replace(path)
    except OSError as error:
        _refused(error)


def _refused(error: OSError) -> NoReturn:
    raise CommandError(f"cannot change {error.filename}: {error.strerror}") from error
