"""Sums over the last seconds, in fixed memory."""

import math
from collections.abc import Sequence


class Window:
    """Sums of several channels over a sliding window, held in a ring of equal buckets.

        bucket:  | k-4 | k-3 | k-2 | k-1 | k ... now      (5 buckets; k is not over yet)
                 |<------------ span(now) ------>|

    An amount is spread evenly over the interval in which it arose, so that a step longer than a
    bucket does not look like a burst. The window's start is a border of buckets: `span` says how
    long it is at a given time, between `seconds - seconds / buckets` and `seconds`. No clock is
    read; times are any monotonic seconds.
    """

    def __init__(self, channels: int, *, seconds: float = 5.0, buckets: int = 50) -> None:
        self._width = seconds / buckets
        self._buckets = buckets
        self._channels = channels
        self._sums = [[0.0] * channels for _ in range(buckets)]
        self._numbers: list[int | None] = [None] * buckets

    def span(self, now: float) -> float:
        """Length in seconds of the window that ends now."""
        return now - self.start(now)

    def start(self, now: float) -> float:
        """Where the window that ends now begins."""
        return (math.floor(now / self._width) - self._buckets + 1) * self._width

    def add(self, start: float, end: float, amounts: Sequence[float]) -> None:
        """Add one amount per channel, arisen from `start` to `end`. What is too old is dropped."""
        first, last = math.floor(start / self._width), math.floor(end / self._width)
        if first >= last:
            self._put(last, amounts, 1.0)
            return
        if last * self._width >= end:  # it ends on a border: nothing of it is in the bucket after that
            last -= 1
        length = end - start
        for number in range(max(first, last - self._buckets + 1), last + 1):
            overlap = min(end, (number + 1) * self._width) - max(start, number * self._width)
            self._put(number, amounts, overlap / length)

    def sums(self, now: float) -> list[float]:
        """Sum per channel over the window that ends now."""
        last = math.floor(now / self._width)
        live = [
            sums
            for number, sums in zip(self._numbers, self._sums, strict=True)
            if number is not None and last - self._buckets < number <= last
        ]
        return [sum(column) for column in zip(*live, strict=True)] if live else [0.0] * self._channels

    def _put(self, number: int, amounts: Sequence[float], share: float) -> None:
        place = number % self._buckets
        held = self._numbers[place]
        if held is not None and held > number:
            return
        sums = self._sums[place]
        if held != number:
            self._numbers[place] = number
            sums[:] = [amount * share for amount in amounts]
            return
        for channel, amount in enumerate(amounts):
            sums[channel] += amount * share
