"""Token buckets: how long somebody has to wait before its next request or message is dealt with. Pure."""

from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

from talkoot.dht.limits import MAX_METERED

K = TypeVar("K", bound=Hashable)


@dataclass(frozen=True, slots=True)
class Rate:
    """`per_s` tokens a second, at most `burst` saved up."""

    per_s: float
    burst: float


class Bucket:
    """One bucket. It may go into debt: who overdraws waits until the debt is paid."""

    def __init__(self, rate: Rate, now: float) -> None:
        self._rate = rate
        self._tokens = rate.burst
        self._at = now

    def take(self, cost: float, now: float) -> float:
        """Spend; the seconds to wait before going on, 0 within the rate."""
        elapsed_s = max(0.0, now - self._at)
        self._tokens = min(self._rate.burst, self._tokens + elapsed_s * self._rate.per_s) - cost
        self._at = now
        return max(0.0, -self._tokens / self._rate.per_s)

    def try_take(self, cost: float, now: float) -> bool:
        """Spend if there is enough."""
        if self.take(cost, now) > 0:
            self._tokens += cost
            return False
        return True


class Meters(Generic[K]):
    """A bucket for each of those seen last. Whoever is forgotten begins again with a full one."""

    def __init__(self, rate: Rate, *, max_keys: int = MAX_METERED) -> None:
        self._rate = rate
        self._max_keys = max_keys
        self._buckets: OrderedDict[K, Bucket] = OrderedDict()

    def of(self, key: K, now: float) -> Bucket:
        """Its bucket."""
        bucket = self._buckets.get(key)
        if bucket is None:
            bucket = self._buckets[key] = Bucket(self._rate, now)
            if len(self._buckets) > self._max_keys:
                self._buckets.popitem(last=False)
        else:
            self._buckets.move_to_end(key)
        return bucket


class Flow:
    """Rates of one kind of message: for each peer, and for all strangers together."""

    def __init__(self, each: Rate, strangers: Rate | None = None) -> None:
        self._each: Meters[bytes] = Meters(each)
        self._strangers = None if strangers is None else Bucket(strangers, 0.0)
        self.at_fault = False
        """Whether the peer asked about last was above its own rate, not only its kind above theirs."""

    def wait_s(self, peer: bytes, cost: float, now: float, *, stranger: bool = False) -> float:
        """Seconds until this message of the peer may be dealt with, which it will be."""
        own_s = self._each.of(peer, now).take(cost, now)
        self.at_fault = own_s > 0
        if not stranger or self._strangers is None:
            return own_s
        return max(own_s, self._strangers.take(cost, now))

    def admit(self, peer: bytes, cost: float, now: float, *, stranger: bool = False) -> bool:
        """Whether this message of the peer is dealt with, now or not at all."""
        self.at_fault = not self._each.of(peer, now).try_take(cost, now)
        if self.at_fault or not stranger or self._strangers is None:
            return not self.at_fault
        return self._strangers.try_take(cost, now)
