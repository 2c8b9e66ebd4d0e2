"""Who waits, in which fair order, and for how long: the queue and the promise of a wait."""

from ridgeline.admission.drain import DrainRate, wait_behind_batch
from ridgeline.admission.queue import WaitingQueue, at_capacity

__all__ = ["DrainRate", "WaitingQueue", "at_capacity", "wait_behind_batch"]
