"""Numbers as people read them, in a terminal."""

from collections.abc import Mapping, Sequence

BAR = 20


def count(value: float) -> str:
    """`12`, `4,300`, `1.3M`."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e5, "k")):
        if value >= size:
            return f"{value / (1e3 if unit == 'k' else size):.3g}{unit}"
    return f"{value:,.0f}"


def percent(share: float) -> str:
    """`12%`; `<1%` for what is there but little."""
    return "<1%" if 0 < share < 0.005 else f"{share:.0%}"


def seconds(value: float) -> str:
    """`850 µs`, `12.3 ms`, `4.5 s`, `12 min`."""
    for size, unit, least in ((60.0, "min", 600.0), (1.0, "s", 1.0), (1e-3, "ms", 1e-3), (1e-6, "µs", 1e-6)):
        if value >= least:
            return f"{value / size:.3g} {unit}"
    return "0 s"


def bar(parts: Sequence[tuple[float, str]], width: int = BAR) -> str:
    """Shares of a whole as a row of signs; the last part takes what rounding leaves."""
    drawn = ""
    passed = 0.0
    for share, sign in parts:
        passed += share
        drawn += sign * (round(min(1.0, passed) * width) - len(drawn))
    return drawn + parts[-1][1] * (width - len(drawn))


def labels(values: Mapping[str, float], name: str) -> dict[str, float]:
    """Values of one metric by its label: of `ridgeline_requests{waiting}` those of `waiting`."""
    start = f"ridgeline_{name}{{"
    return {key[len(start) : -1]: value for key, value in values.items() if key.startswith(start)}
