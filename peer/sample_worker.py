"""The process that makes one sample (`talkoot.peer.sampling`): a job on its input, the text on its output."""

import os
import signal
import sys
import time
from pathlib import Path

import msgspec
import psutil

from talkoot.peer.sampling import LIMIT_S, MAX_TOKENS, Sample, SampleJob

MAX_JOB_BYTES = 64 * 1024


def main() -> None:
    """Answer whatever happens; never outlive the one who asked by long."""
    _give_way()
    job = msgspec.json.decode(sys.stdin.buffer.read(MAX_JOB_BYTES), type=SampleJob)
    try:
        answer = make(job)
    except (ValueError, OSError) as error:
        answer = Sample(error=str(error))
    sys.stdout.buffer.write(msgspec.json.encode(answer))


def _give_way() -> None:
    signal.alarm(int(LIMIT_S) + 10)  # a daemon that was killed cannot end us
    os.nice(19)
    if sys.platform.startswith("linux"):
        psutil.Process().ionice(psutil.IOPRIO_CLASS_IDLE)


def make(job: SampleJob) -> Sample:
    """Raises ConfigError, OSError, ValueError: in one line why there is none."""
    until = time.monotonic() + job.seconds
    from talkoot.peer.head import StoreCorruptError
    from talkoot.peer.manifest import from_canonical
    from talkoot.peer.parameters import read_parameters
    from talkoot.peer.statedir import StateDir

    directory = Path(job.state_dir)
    data = StateDir(directory).load_manifest()
    if data is None:
        raise ValueError("there is no model yet")
    manifest = from_canonical(data)
    try:
        head, theta = read_parameters(directory)
    except StoreCorruptError as error:
        raise ValueError(str(error)) from error
    import torch

    from talkoot.peer.generate import Sampling, generate

    torch.set_num_threads(1)
    sampling = Sampling(max_tokens=min(job.max_tokens, MAX_TOKENS), seed=job.seed)
    text = ""
    for piece in generate(manifest, theta, job.prompt, sampling, base_dir=directory):
        text += piece
        if time.monotonic() > until:
            break
    return Sample(round=head.round, prompt=job.prompt, text=text)


if __name__ == "__main__":
    main()
