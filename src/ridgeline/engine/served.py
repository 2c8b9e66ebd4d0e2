"""A served model as the server's side of a replica sees it."""

from dataclasses import dataclass

from ridgeline.protocol import ModelInfo
from ridgeline.telemetry.meter import EngineMeter
from ridgeline.text.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class ServedModel:
    """What is needed to read and write a model's tokens; the weights are with its engine."""

    info: ModelInfo
    tokenizer: Tokenizer
    meter: EngineMeter
