"""Python runs this at the start of every process that a test starts: see `unpickling`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))
import unpickling

sys.path.pop(0)
unpickling.watch()
