"""Energy of the processor, where Linux lets this user read it (RAPL; mostly root only)."""

from collections.abc import Sequence
from pathlib import Path

FOLDER = Path("/sys/class/powercap")


class Rapl:
    """The processor packages of this machine, together."""

    def __init__(self, folder: Path = FOLDER) -> None:
        self._counters = [path for path in sorted(folder.glob("intel-rapl:*")) if path.name.count(":") == 1]
        self._before = self._read()

    def joules(self) -> float | None:
        """Since the last call, or since it was made; None where that cannot be told."""
        before, self._before = self._before, self._read()
        if before is None or self._before is None:
            return None
        grown = zip(before, self._before, strict=True)
        return sum((now - then) % (most + 1) for (then, most), (now, _) in grown) / 1e6

    def _read(self) -> Sequence[tuple[int, int]] | None:
        """Microjoules of each counter, and where it begins anew."""
        try:
            found = [
                (_number(path / "energy_uj"), _number(path / "max_energy_range_uj"))
                for path in self._counters
            ]
        except (OSError, ValueError):
            return None
        return found or None


def _number(path: Path) -> int:
    return int(path.read_text(encoding="ascii"))
