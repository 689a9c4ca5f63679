"""Puts an exported folder into a model repository on the Hugging Face Hub, when the user asks for it.

In a process of its own: building a model tells `transformers` to be offline, for good. The token comes from
where the library keeps it (`hf auth login`, HF_TOKEN), never from a command line, and is never shown.
"""

import importlib.util
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from talkoot.dht.errors import ConfigError

_REPO = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")

TOLD = 3
"""Exit code of the uploading process when the last line on its stderr says all."""


class UploadError(Exception):
    """It was not uploaded; one line says why."""


def require_upload(repo: str) -> None:
    """What can be known to be wrong before anything is built. Raises ConfigError."""
    if not _REPO.fullmatch(repo):
        raise ConfigError(f"--upload {repo}: write OWNER/NAME of a model repository")
    if importlib.util.find_spec("huggingface_hub") is None:
        raise ConfigError("--upload needs huggingface_hub: pip install 'talkoot[huggingface]'")


def upload(folder: Path, repo: str, *, private: bool, environment: Mapping[str, str]) -> str:
    """Make the repository where it is missing and commit all files of `folder`. Returns its address.

    `environment` is the user's. Raises UploadError.
    """
    quiet = {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
    command = [sys.executable, "-m", "talkoot.peer.upload", str(folder), repo, *(["--private"] * private)]
    done = subprocess.run(  # noqa: S603 - ourselves
        command, capture_output=True, check=False, env={**environment, **quiet}, stdin=subprocess.DEVNULL
    )
    lines = done.stderr.decode(errors="replace").strip().splitlines()
    if done.returncode != 0:
        last = lines[-1] if lines else "no reason given"
        told = last if done.returncode == TOLD else f"the uploading process ended: {last}"
        raise UploadError(f"{repo}: {told}")
    return done.stdout.decode(errors="replace").strip()


def _main(folder: str, repo: str, private: bool) -> str:
    from huggingface_hub import HfApi

    api = HfApi()
    made = api.create_repo(repo, private=private or None, exist_ok=True)
    if private and not api.repo_info(repo).private:
        raise UploadError("the repository is there and public; nothing was uploaded")
    api.upload_folder(repo_id=repo, folder_path=folder, commit_message="Model trained by a talkoot swarm")
    return str(made)


def _without_token(text: str) -> str:
    """One line of an error, without what must not be shown."""
    from huggingface_hub import get_token

    token = get_token()
    return " ".join((text.replace(token, "***") if token else text).split())[:500]


if __name__ == "__main__":
    try:
        sys.stdout.write(_main(sys.argv[1], sys.argv[2], "--private" in sys.argv[3:]))
    except Exception as failure:  # noqa: BLE001 - of three libraries; told in one line
        sys.stderr.write(_without_token(str(failure) or type(failure).__name__) + os.linesep)
        sys.exit(TOLD)
