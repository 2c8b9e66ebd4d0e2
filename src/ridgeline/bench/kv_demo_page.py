"""The demonstration of the KV cache as tables, for a terminal and a page, and as plots."""

from collections.abc import Sequence
from dataclasses import dataclass

from ridgeline.bench.kv_demo import KVDemonstration
from ridgeline.bench.page import drawn, render_page
from ridgeline.bench.plots import Plot, Series


@dataclass(frozen=True, slots=True)
class Table:
    """A table with a title and a sentence about it."""

    title: str
    text: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


def tables(shown: KVDemonstration) -> list[Table]:
    """Both tables."""
    tokens = [
        (
            f"{each.position:,}",
            f"{each.pairs_without:,}",
            f"{each.pairs_with:,}",
            _ms(each.seconds_without),
            _ms(each.seconds_with),
            f"{each.seconds_without / each.seconds_with:.1f}x",
        )
        for each in shown.tokens
    ]
    evicted = next(each.seconds for each in shown.returns if each.place == "nowhere (evicted)")
    returns = [
        (
            each.place,
            f"{each.cached_tokens:,} of {each.prompt_tokens:,}",
            _ms(each.seconds),
            f"{evicted / each.seconds:.1f}x",
        )
        for each in shown.returns
    ]
    return [
        Table(
            "The n-th token",
            "Without a cache all tokens before it are computed again, and each attends to all before it: "
            "n x n pairs. With K and V of the others kept it is computed alone.",
            ("n", "pairs without", "pairs with", "without", "with", "faster by"),
            tokens,
        ),
        Table(
            "A conversation that comes back",
            f"Time to the first token of an answer. A token's K and V take "
            f"{shown.kv_bytes_per_token / 1024:.1f} KiB.",
            ("K and V are in", "cached", "first token", "faster by"),
            returns,
        ),
    ]


def plots(shown: KVDemonstration) -> list[Plot]:
    """Time over position, and time by place."""
    without = [(float(each.position), 1000 * each.seconds_without) for each in shown.tokens]
    with_ = [(float(each.position), 1000 * each.seconds_with) for each in shown.tokens]
    return [
        Plot(
            "The n-th token, without and with a KV cache",
            "n",
            "ms",
            [Series(without, "marked", "without", "s2"), Series(with_, "marked", "with")],
        )
    ]


def subtitle(shown: KVDemonstration) -> str:
    """What was measured, in a line."""
    return f"{shown.model} in {shown.dtype} ({shown.kernels}), medians of {shown.repetitions}"


def page(shown: KVDemonstration) -> str:
    """One HTML file: nothing is fetched, no script is run."""
    return render_page(
        "demo.html.jinja",
        title="What the KV cache is worth",
        sub=subtitle(shown),
        plots=drawn(plots(shown)),
        tables=tables(shown),
    )


def _ms(seconds: float) -> str:
    return f"{1000 * seconds:,.1f} ms"
