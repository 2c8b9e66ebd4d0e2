"""The least time that each row can take, from the cost model: what there is to be reached."""

from collections.abc import Iterator
from dataclasses import dataclass

from gpu.models import Config
from gpu.scale import DTYPE, FULL
from ridgeline.models.config_readers import config_from_json
from ridgeline.roofline import Work, find_hardware, step_cost

_SHEET = find_hardware("h200")

KV_SHARE = 0.90
"""Of a device's memory beside the weights; the rest goes to the step and to a margin."""


@dataclass(frozen=True, slots=True)
class Ceiling:
    """Bytes and FLOPs per second, and where they are from."""

    source: str
    bytes_per_second: float
    flops_per_second: float

    def seconds(self, flops: float, moved: float) -> float:
        """Moving and computing overlap at best."""
        return max(flops / self.flops_per_second, moved / self.bytes_per_second)


CEILINGS = (
    Ceiling("H200 data sheet", _SHEET.bytes_per_second, _SHEET.peak_flops(DTYPE)),
    Ceiling("measured on an H200", 4.566e12, 799e12),
)


def _steps(config: Config) -> Iterator[tuple[str, Work, int]]:
    """Name, work, and tokens that are in the KV cache at its end."""
    for context in FULL.contexts:
        for batch in FULL.batches:
            work = Work.of([(1, context)] * batch, batch)
            yield f"decode, batch {batch}, context {context:,}", work, batch * (context + 1)
    for tokens in FULL.prefills:
        yield f"prefill, {tokens:,} tokens", Work.of([(tokens, 0)], 1), tokens


def floors() -> str:
    """The table, as Markdown."""
    sheet, measured = CEILINGS
    lines = [
        "| model | step | GFLOP | GB | bound by | floor, data sheet, ms | floor, by measured ceilings, ms "
        "| tokens/s at most, by measured ceilings |",
        "| --- | --- | ---: | ---: | --- | ---: | ---: | ---: |",
    ]
    for name, config in FULL.timed.items():
        shape = config_from_json(config, name).shape()
        room = KV_SHARE * _SHEET.memory_bytes - 2 * shape.parameters()
        for step, work, held in _steps(config):
            cost = step_cost(shape, _SHEET, DTYPE, work)
            if held * shape.kv_bytes_per_token(2) > room:
                lines.append(f"| {name} | {step} | - | - | does not fit | - | - | - |")
                continue
            times = [c.seconds(cost.flops, cost.bytes) for c in (sheet, measured)]
            by_memory = cost.bytes / measured.bytes_per_second
            bound = "memory" if by_memory >= times[1] else "arithmetic"
            figures = f"{times[0] * 1e3:.3f} | {times[1] * 1e3:.3f} | {work.new_tokens / times[1]:,.0f}"
            amounts = f"{cost.flops / 1e9:,.1f} | {cost.bytes / 1e9:,.2f}"
            lines.append(f"| {name} | {step} | {amounts} | {bound} | {figures} |")
    return "\n".join(lines) + "\n"
