"""Held-out losses of files of parameters: `python -m talkoot.cli.demo_evaluate --manifest M FILE...`.

A process of its own, so that torch's memory is given back when it is done.
"""

import argparse
import json
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from talkoot.dht.errors import ConfigError
from talkoot.peer.trainer import solo


def main(arguments: list[str]) -> int:
    """Print {"losses": [...]}, in the order of the files; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m talkoot.cli.demo_evaluate", description=__doc__)
    parser.add_argument("--manifest", type=Path, required=True)
    parser.add_argument("--windows", type=int, required=True)
    parser.add_argument("--device", default="auto")
    parser.add_argument("files", type=Path, nargs="+")
    options = parser.parse_args(arguments)
    try:
        manifest, base = solo.load_any(options.manifest)
        with TemporaryDirectory(prefix="talkoot-evaluate-") as folder:
            spec = solo.spec_of(options.manifest, Path(folder), device=options.device, base_dir=base)
            losses = [solo.evaluate_file(manifest, spec, path, options.windows) for path in options.files]
    except (ConfigError, ValueError, OSError) as error:
        sys.stderr.write(f"talkoot: {error}\n")
        return 1
    sys.stdout.write(json.dumps({"losses": losses}) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
