"""A trainer whose tenth micro-batch never ends: `python tests/slow_trainer.py FD`."""

import sys
import time
from typing import Any
from unittest.mock import patch

from talkoot.peer.trainer import numpy_model, worker

done = 0
real = numpy_model.add_gradient


def add_gradient(*arguments: Any) -> float:
    """As the real one, for the probe and a few steps."""
    global done
    done += 1
    if done >= 10:
        sys.stderr.write("stuck\n")
        time.sleep(3600)
    return real(*arguments)


if __name__ == "__main__":
    with patch.object(numpy_model, "add_gradient", add_gradient):
        sys.exit(worker.main(sys.argv[1:]))
