"""Token buckets. Pure: time comes in as `now`, in seconds of any steady clock."""

from collections.abc import Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)


class Bucket:
    """`capacity` tokens, which come back at `rate` a second. It may be overdrawn; then one waits."""

    __slots__ = ("_at", "_level", "capacity", "rate")

    def __init__(self, capacity: float, rate: float, now: float) -> None:
        self.capacity = capacity
        self.rate = rate
        self._level = capacity
        self._at = now

    def level(self, now: float) -> float:
        """Tokens that are there; negative where it was overdrawn."""
        self._level = min(self.capacity, self._level + max(0.0, now - self._at) * self.rate)
        self._at = now
        return self._level

    def take(self, count: float, now: float) -> bool:
        """Take tokens if so many are there."""
        if self.level(now) < count:
            return False
        self._level -= count
        return True

    def draw(self, count: float, now: float) -> float:
        """Take tokens, there or not; seconds to wait until the bucket is no longer overdrawn."""
        self._level = self.level(now) - count
        return max(0.0, -self._level / self.rate)

    def is_full(self, now: float) -> bool:
        """Whether it is as good as new."""
        return self.level(now) >= self.capacity


class Buckets(Generic[K]):
    """One bucket for each key, at most `most` of them: full ones are forgotten, which changes nothing; beyond
    that every new key shares one bucket."""

    def __init__(self, capacity: float, rate: float, *, most: int = 4096) -> None:
        self._capacity = capacity
        self._rate = rate
        self._most = most
        self._of: dict[K, Bucket] = {}
        self._rest: Bucket | None = None

    def of(self, key: K, now: float) -> Bucket:
        """The bucket of a key."""
        bucket = self._of.get(key)
        if bucket is not None:
            return bucket
        if len(self._of) >= self._most:
            self._of = {each: held for each, held in self._of.items() if not held.is_full(now)}
        if len(self._of) >= self._most:
            if self._rest is None:
                self._rest = Bucket(self._capacity, self._rate, now)
            return self._rest
        bucket = self._of[key] = Bucket(self._capacity, self._rate, now)
        return bucket

    def __len__(self) -> int:
        return len(self._of)
