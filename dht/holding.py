"""Memory for payloads of strangers that are under way or not yet dealt with. Pure."""


class Budget:
    """Bytes that all of them may have together."""

    def __init__(self, num_bytes: int) -> None:
        self._left = num_bytes

    def take(self, num_bytes: int) -> bool:
        """Whether there was so much left, which is taken then."""
        if num_bytes > self._left:
            return False
        self._left -= num_bytes
        return True

    def give(self, num_bytes: int) -> None:
        """Give back what was taken."""
        self._left += num_bytes
