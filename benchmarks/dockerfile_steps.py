"""Run the steps of the Dockerfile where there is no Docker engine: in a Debian root, as root, on Linux.

    debootstrap --variant=minbase bookworm ROOT
    python benchmarks/dockerfile_steps.py ROOT WORK [--arg BACKEND=cpu ...] [--bind PATH ...]
        [--env NAME=VALUE ...]

Each stage gets a copy of ROOT under WORK; FROM, ARG, ENV, WORKDIR, COPY and RUN are done, USER counts for
what comes after it, the rest is read only. At the end the image's command runs as its user with `--help`.
`--bind` and `--env` pass on what only this machine needs to reach packages. It is no container: what a
build does, it may do to this machine.
"""

import argparse
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

FOLDER = Path(__file__).parent.parent / "docker"


@dataclass
class Stage:
    """One FROM and what follows."""

    root: Path
    environment: dict[str, str] = field(default_factory=dict)
    workdir: str = "/"
    user: str = "root"
    entrypoint: tuple[str, ...] = ()


def steps() -> list[tuple[str, str]]:
    """(instruction, arguments) of the Dockerfile."""
    text = re.sub(r"^\s*#.*\n", "", (FOLDER / "Dockerfile").read_text(), flags=re.MULTILINE)
    lines = filter(str.strip, text.replace("\\\n", " ").splitlines())
    return [(word, rest.strip()) for word, _, rest in (line.partition(" ") for line in lines)]


@contextmanager
def mounted(root: Path, binds: list[str]) -> Iterator[None]:
    """What programs expect, and `binds`, inside of `root`."""
    with ExitStack() as stack:
        for path in ("/proc", "/dev", "/etc/resolv.conf", *binds):
            target = root / path.lstrip("/")
            if Path(path).is_dir():
                target.mkdir(parents=True, exist_ok=True)
            else:
                target.parent.mkdir(parents=True, exist_ok=True)
                target.touch()
            subprocess.run(["mount", "--bind", path, str(target)], check=True)
            stack.callback(subprocess.run, ["umount", "--lazy", str(target)], check=True)
        yield


def inside(stage: Stage, command: list[str], options: argparse.Namespace) -> None:
    """Run it in the stage's root. Raises CalledProcessError."""
    clean = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root"}
    if stage.user != "root":
        clean["HOME"] = f"/home/{stage.user}"
    extra = dict(each.partition("=")[::2] for each in options.env)
    with mounted(stage.root, options.bind):
        who = ["chroot", f"--userspec={stage.user}", str(stage.root)]
        where = ["/usr/bin/env", f"--chdir={stage.workdir}", *command]
        subprocess.run([*who, *where], check=True, env=clean | stage.environment | extra)


def copy(stage: Stage, rest: str, stages: dict[str, Stage]) -> None:
    """COPY, from the repository or from another stage."""
    words = shlex.split(rest)
    source = FOLDER.parent
    if words[0].startswith("--from="):
        source = stages[words.pop(0).partition("=")[2]].root
    *names, to = words
    target = stage.root / os.path.join(stage.workdir, to).lstrip("/")
    for name in names:
        path = source / name.lstrip("/")
        if path.is_dir():
            shutil.copytree(path, target, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            target.mkdir(parents=True, exist_ok=True)
            shutil.copy2(path, target)


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("root", type=Path, help="as debootstrap makes it")
    parser.add_argument("work", type=Path, help="a folder to be made; delete it afterwards")
    for name in ("arg", "bind", "env"):
        parser.add_argument(f"--{name}", action="append", default=[])
    options = parser.parse_args()
    options.work.mkdir()
    given = dict(each.partition("=")[::2] for each in options.arg)
    stages: dict[str, Stage] = {}
    stage: Stage | None = None
    for word, rest in steps():
        print(f"== {word} {rest}", flush=True)
        if word == "FROM":
            name = rest.partition(" AS ")[2] or "final"
            stage = stages[name] = Stage(options.work / name)
            subprocess.run(["cp", "--archive", str(options.root), str(stage.root)], check=True)
            continue
        assert stage is not None
        match word:
            case "ARG":
                name, _, value = rest.partition("=")
                stage.environment[name] = given.get(name, value)
            case "ENV":
                for name, _, value in (each.partition("=") for each in shlex.split(rest)):
                    stage.environment[name] = value.replace("$PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            case "WORKDIR":
                stage.workdir = rest
                (stage.root / rest.lstrip("/")).mkdir(parents=True, exist_ok=True)
            case "USER":
                stage.user = rest
            case "COPY":
                copy(stage, rest, stages)
            case "RUN":
                inside(stage, ["/bin/sh", "-c", rest], options)
            case "ENTRYPOINT":
                stage.entrypoint = tuple(json.loads(rest))
            case _:
                print("   (not done)")
    assert stage is not None
    inside(stage, ["id"], options)
    inside(stage, [*stage.entrypoint, "--help"], options)


if __name__ == "__main__":
    sys.exit(main())
