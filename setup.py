"""Notes the commit in what is built, for `talkoot --version`; all else is in pyproject.toml."""

import os
import subprocess
from contextlib import suppress
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


def commit() -> str:
    """Of the repository that this is built from; TALKOOT_BUILD_COMMIT says it where there is none."""
    given = os.environ.get("TALKOOT_BUILD_COMMIT", "")
    with suppress(OSError, subprocess.SubprocessError):
        ask = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
        done = subprocess.run(ask, capture_output=True, text=True, check=True, timeout=30)  # noqa: S603
        return given or done.stdout.strip()
    return given


class BuildWithCommit(build_py):
    """As always, and `peer/commit.txt`."""

    def run(self) -> None:
        """Build; an editable install asks its repository instead."""
        super().run()
        if not self.editable_mode and (known := commit()):
            folder = Path(self.build_lib, "talkoot", "peer")
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "commit.txt").write_text(known + "\n")


setup(cmdclass={"build_py": BuildWithCommit})
