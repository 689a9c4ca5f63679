"""What the driver holds staged for a round: a result, or a job that is about to overwrite it."""

from talkoot.averaging.certificate import Value
from talkoot.averaging.ledger import Ledger
from talkoot.averaging.outputs import Apply, Obtain


class Staged:
    """Outlives the attempts of a round, since what is staged may be locked."""

    def __init__(self) -> None:
        self.value: Value | None = None
        """Whose result the driver holds."""
        self._ledger: Ledger | None = None
        self._job: Apply | Obtain | None = None
        """The last that began to overwrite it."""

    def begin(self, job: Apply | Obtain) -> None:
        """The driver is told to do this: nothing is staged until it is done."""
        self.value, self._ledger, self._job = None, None, job

    def obtains(self, value: Value) -> bool:
        """Whether the result of this value is under way already."""
        return isinstance(self._job, Obtain) and self._job.value == value

    def hold(self, value: Value, ledger: Ledger) -> None:
        """The result of this value is staged."""
        self.value, self._ledger = value, ledger

    def obtained(self, job: Obtain, success: bool) -> bool:
        """The job is done; whether the result of its value is staged now. Not if another began since."""
        if self._job is not job:
            return False
        self._job = None
        if success:
            self.hold(job.value, job.ledger)
        return success

    def ledger_after(self, value: Value) -> Ledger | None:
        """The ledger after a round of this value, where its result is staged."""
        return self._ledger if self.value == value else None
