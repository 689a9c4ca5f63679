"""How fast this peer's uplink is: measured while bulk is sent, or as the volunteer says, and remembered."""

import logging
import math
from pathlib import Path

from talkoot.dht.errors import ConfigError
from talkoot.peer import clock
from talkoot.peer.options import MAX_UPLINK
from talkoot.peer.small_files import read_small, write_small

log = logging.getLogger("talkoot.links")

NEWS = 0.1
"""Share by which a measurement has to differ from the remembered one to be written down."""


SLOWER = 0.8
"""What is slower than this part of the volunteer's limit is the line and not the limit."""


class UploadMeter:
    """How fast bulk leaves this peer, in bytes a second, while there is bulk to send.

    What fits into buffers on the way seems to leave at once, so short bursts say nothing.
    """

    MIN_BYTES = 8 << 20
    """A burst counts from this size on."""

    WEIGHT = 0.3
    """Of a new burst against those before."""

    def __init__(self, stated: float = 0.0) -> None:
        """`stated` is what the volunteer says, in bytes/s; 0: nothing."""
        self.stated = stated
        self.limit = 0.0
        """What the volunteer lets it take, in bytes/s; 0: all. May change at any time."""
        self.measured = 0.0
        """Over connections of our own; 0: not measured."""
        self.measured_relayed = 0.0
        """Through relays; 0: not measured."""
        self.relayed = False
        """Whether what counts now is what goes through relays: somebody whom rounds need is reached so."""
        self._active = 0
        self._began = 0.0
        self._bytes = self._bytes_relayed = 0

    @property
    def rate(self) -> float:
        """What is claimed: what was measured, never more than what is stated or the limit; 0: not known."""
        measured = self.measured_relayed if self.relayed else self.measured
        return min((each for each in (measured, self.stated, self.limit) if each), default=0.0)

    def begin(self) -> None:
        """A lane starts to send."""
        if self._active == 0:
            self._began, self._bytes, self._bytes_relayed = clock.now(), 0, 0
        self._active += 1

    def sent(self, num_bytes: int, *, relayed: bool = False) -> None:
        """Bytes that a lane has handed over."""
        self._bytes += num_bytes
        self._bytes_relayed += num_bytes * relayed

    def end(self) -> None:
        """A lane has nothing left."""
        self._active -= 1
        seconds = clock.now() - self._began
        if self._active == 0 and self._bytes >= self.MIN_BYTES and seconds > 0:
            rate = self._bytes / seconds
            if self.limit and rate > SLOWER * self.limit:
                return  # which says nothing of the line
            if 2 * self._bytes_relayed > self._bytes:
                self.measured_relayed = self._mixed(self.measured_relayed, rate)
            else:
                self.measured = self._mixed(self.measured, rate)

    def _mixed(self, known: float, rate: float) -> float:
        return known + (self.WEIGHT if known else 1.0) * (rate - known)


class Memory:
    """Keeps a measurement in a file, so that a peer that was restarted knows its uplink at once."""

    def __init__(self, path: Path, meter: UploadMeter) -> None:
        """Takes up what is there; a file that is damaged is as good as none."""
        self._path = path
        self._meter = meter
        self._written = 0.0
        self._told = False
        self._take_up()

    def _take_up(self) -> None:
        try:
            rate = float(read_small(self._path) or b"0")
        except (ConfigError, ValueError):
            log.warning("%s is damaged; the uplink will be measured again", self._path)
            return
        if math.isfinite(rate) and 0.0 < rate <= MAX_UPLINK:
            self._meter.measured = self._written = rate

    @property
    def is_stale(self) -> bool:
        """Whether `write` would tell anything new."""
        return abs(self._meter.measured - self._written) > NEWS * self._written

    def write(self) -> None:
        """Remember the present rate, durably; what cannot be written will be measured again."""
        measured = self._meter.measured
        try:
            write_small(self._path, b"%.0f\n" % measured)
        except ConfigError as error:
            if not self._told:
                log.info("%s; the uplink will be measured again", error)
            self._told = True
            return
        self._told = False
        self._written = measured
