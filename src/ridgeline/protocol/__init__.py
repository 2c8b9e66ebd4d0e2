"""The words that pass between rooms: plain data, no I/O, no heavy imports."""

from ridgeline.protocol.backend import Backend, Caching, Explaining
from ridgeline.protocol.errors import Refusal
from ridgeline.protocol.request import Message, Request, Sampling, Stopping
from ridgeline.protocol.status import ModelInfo, ModelStatus, Status
from ridgeline.protocol.stream import Delta, FinishReason, TokenLogprob, Usage
from ridgeline.protocol.timeline import Event, Timeline, Told

__all__ = [
    "Backend",
    "Caching",
    "Delta",
    "Event",
    "Explaining",
    "FinishReason",
    "Message",
    "ModelInfo",
    "ModelStatus",
    "Refusal",
    "Request",
    "Sampling",
    "Status",
    "Stopping",
    "Timeline",
    "TokenLogprob",
    "Told",
    "Usage",
]
