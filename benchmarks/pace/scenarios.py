"""What is played: kinds of work on models and devices, at rates near what the best setting carries."""

from collections.abc import Iterator
from dataclasses import dataclass

from pace.device import Place
from pace.play import Play, Score, Setting
from pace.workloads import KINDS, Conversation, conversations
from ridgeline.roofline import ModelShape

LLAMA_8B = ModelShape(32, 4096, 32, 8, 128, 14336, 128256, tied_head=False)
LLAMA_1B = ModelShape(16, 2048, 32, 8, 64, 8192, 128256, tied_head=True)

H100 = Place("8B on H100", LLAMA_8B, "h100")
A100 = Place("8B on A100", LLAMA_8B, "a100-80")
L40S = Place("1B on L40S", LLAMA_1B, "l40s")

TOKENS = (256, 512, 1024, 2048, 4096)
SEQUENCES = (64, 128, 256, 512)
TARGET = Setting()
GRID = tuple(
    Setting(tokens, sequences) for tokens in TOKENS for sequences in SEQUENCES if tokens >= sequences
)


@dataclass(frozen=True, slots=True)
class Phase:
    """So many conversations of a kind a second, for so long."""

    kind: str
    per_second: float
    seconds: float = 20.0


@dataclass(frozen=True, slots=True)
class Scenario:
    """One engine's life: phases one after the other, nothing set anew between them."""

    name: str
    place: Place
    phases: tuple[Phase, ...]

    def conversations(self, seed: int) -> Iterator[Conversation]:
        """All of them."""
        start = 0.0
        for phase in self.phases:
            end = start + phase.seconds
            yield from conversations(KINDS[phase.kind], phase.per_second, start, end, seed)
            start = end

    def play(self, setting: Setting, seed: int) -> Score:
        """Run it once."""
        return Play.timed(self.place, setting, seed).run(self.conversations(seed))


SCENARIOS = {
    scenario.name: scenario
    for scenario in (
        Scenario("chat, H100", H100, (Phase("chat", 18),)),
        Scenario("summarise, H100", H100, (Phase("summarise", 9),)),
        Scenario("write, H100", H100, (Phase("write", 42),)),
        Scenario("change, H100", H100, (Phase("write", 38), Phase("summarise", 8.5), Phase("chat", 16))),
        Scenario("chat, A100", A100, (Phase("chat", 12.5),)),
        Scenario("summarise, A100", A100, (Phase("summarise", 3.6),)),
        Scenario("write, A100", A100, (Phase("write", 22),)),
        Scenario("chat, L40S", L40S, (Phase("chat", 32),)),
        Scenario("summarise, L40S", L40S, (Phase("summarise", 18),)),
        Scenario("write, L40S", L40S, (Phase("write", 40),)),
    )
}

CHANGES = {
    "kind of work": ("change, H100",),
    "device": tuple(f"{kind}, {device}" for device in ("H100", "A100") for kind in KINDS),
    "model and device": tuple(f"{kind}, {device}" for device in ("A100", "L40S") for kind in KINDS),
}
"""Scenarios over which one setting has to hold."""
