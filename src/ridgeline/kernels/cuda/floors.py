"""Which tokens of a row may be drawn, and which one is: device functions of the drawing kernel.

Where filters on a CPU work with heights, (logit - largest) / temperature, these work with *gaps*,
largest - logit: 0 for the most probable token, never negative, so that their bit patterns are in
order as integers. Dividing by the temperature keeps that order, so a floor among the heights is a
*limit* among the gaps; `_widest` turns one into the other without losing a tie. A token's weight,
exp(-gap / temperature), is in (0, 1].

Nothing is sorted. The smallest gap at which a count or a mass is reached is found by narrowing a
range of bit patterns, several pivots per pass. Sums of nonnegative floats in an order that does not
depend on the pivot never decrease with the pivot, so rounding cannot mislead the search.
"""

import triton
import triton.language as tl

LARGEST_BITS = tl.constexpr(0x7F7FFFFF)
"""Bit pattern of the largest finite gap. Tokens beyond it weigh nothing."""

ROW_PIVOTS = tl.constexpr(3)
"""Per pass over a row: more would take longer to compare than the row takes to load."""


STAGES = tl.constexpr(4)
"""Blocks of a row in flight: three are on their way while one is worked on."""


@triton.jit
def weigh(gaps, scale):
    """exp(-gap / temperature), with scale = log2(e) / temperature; 0 for an infinite gap."""
    return tl.exp2(-gaps * scale)


@triton.jit
def load_gaps(line, start, vocab, peak, BLOCK: tl.constexpr):
    """Gaps of tokens start .. start + BLOCK of the row at `line`; infinite beyond the vocabulary."""
    ids = start + tl.arange(0, BLOCK)
    return peak - tl.load(line + ids, mask=ids < vocab, other=-float("inf"))


@triton.jit
def widest(depth, temperature):
    """The largest finite gap whose quotient by the temperature, rounded to float32, is not above depth.

    Different gaps may have the same quotient; a floor keeps all tokens whose quotient equals its own.
    """
    near = tl.minimum(depth * temperature, 3.4028234663852886e38).to(tl.int32, bitcast=True)
    # Rounding moves the product and the quotient by less than three units in the last place.
    bits = tl.minimum(tl.maximum(near - 8 + tl.arange(0, 16), 0), LARGEST_BITS)
    within = tl.div_rn(bits.to(tl.float32, bitcast=True), temperature) <= depth
    return tl.max(tl.where(within, bits, 0), 0).to(tl.float32, bitcast=True)


@triton.jit
def smallest(bits, weights, wanted, high, enough, PIVOTS: tl.constexpr):
    """The smallest pattern at which the weights up to it reach `wanted`; `high` if none below does.

    bits and weights are held in registers. A pattern that reaches no more than `enough` will do, too.
    """
    low = 0
    found = float("inf")
    while (low < high) & (found > enough):
        step = (high - low) // (PIVOTS + 1) + 1
        pivots = tl.minimum(low + step * (tl.arange(0, PIVOTS) + 1) - 1, high - 1)
        sums = tl.sum(tl.where(bits[None, :] <= pivots[:, None], weights[None, :], 0.0), 1)
        reached = sums >= wanted
        low = tl.max(tl.where(reached, low, pivots + 1), 0)
        high = tl.min(tl.where(reached, pivots, high), 0)
        found = tl.min(tl.where(reached, sums, found), 0)
    return high


@triton.jit
def smallest_of_row(line, vocab, peak, scale, wanted, high, COUNT: tl.constexpr, BLOCK: tl.constexpr):
    """As `smallest`, for a whole row: the weights are those of the tokens, or 1 each if COUNT."""
    low = 0
    while low < high:
        step = (high - low) // (ROW_PIVOTS + 1) + 1
        first = tl.minimum(low + step - 1, high - 1)
        second = tl.minimum(low + step * 2 - 1, high - 1)
        third = tl.minimum(low + step * 3 - 1, high - 1)
        to_first = tl.zeros([BLOCK], tl.float32)
        to_second = tl.zeros([BLOCK], tl.float32)
        to_third = tl.zeros([BLOCK], tl.float32)
        for start in tl.range(0, vocab, BLOCK, num_stages=STAGES):
            gaps = load_gaps(line, start, vocab, peak, BLOCK)
            bits = gaps.to(tl.int32, bitcast=True)
            weights = tl.full([BLOCK], 1.0, tl.float32) if COUNT else weigh(gaps, scale)
            to_first += tl.where(bits <= first, weights, 0.0)
            to_second += tl.where(bits <= second, weights, 0.0)
            to_third += tl.where(bits <= third, weights, 0.0)
        at_first = tl.sum(to_first, 0) >= wanted
        at_second = tl.sum(to_second, 0) >= wanted
        at_third = tl.sum(to_third, 0) >= wanted
        high = tl.where(at_first, first, tl.where(at_second, second, tl.where(at_third, third, high)))
        low = tl.where(
            at_first, low, tl.where(at_second, first + 1, tl.where(at_third, second + 1, third + 1))
        )
    return high


@triton.jit
def mass_of_row(line, vocab, peak, scale, limit, BLOCK: tl.constexpr):
    """Sum of the weights of a row's tokens whose gap is not above the limit."""
    masses = tl.zeros([BLOCK], tl.float32)
    for start in tl.range(0, vocab, BLOCK, num_stages=STAGES):
        gaps = load_gaps(line, start, vocab, peak, BLOCK)
        masses += tl.where(gaps <= limit, weigh(gaps, scale), 0.0)
    return tl.sum(masses, 0)


@triton.jit
def limit_of_row(line, vocab, peak, temperature, scale, limit, top_k, top_p, BLOCK: tl.constexpr):
    """The limit after top_k and top_p, from the one before, whatever it keeps; some twenty passes each."""
    if (top_k > 0) & (top_k < vocab):
        high = limit.to(tl.int32, bitcast=True)
        high = smallest_of_row(line, vocab, peak, scale, top_k.to(tl.float32), high, True, BLOCK)
        gap = high.to(tl.float32, bitcast=True)
        limit = tl.minimum(limit, widest(tl.div_rn(gap, temperature), temperature))
    if top_p < 1.0:
        wanted = top_p * mass_of_row(line, vocab, peak, scale, limit, BLOCK)
        high = limit.to(tl.int32, bitcast=True)
        high = smallest_of_row(line, vocab, peak, scale, wanted, high, False, BLOCK)
        gap = high.to(tl.float32, bitcast=True)
        limit = tl.minimum(limit, widest(tl.div_rn(gap, temperature), temperature))
    return limit


@triton.jit
def limit_of_held(
    gaps, weights, count, mass, bound, vocab, temperature, limit, top_k, top_p, PIVOTS: tl.constexpr
):
    """As `limit_of_row`, from the tokens held in registers alone: the limit, and whether it is certain.

    Held are the `count` tokens with gaps up to `bound`; beyond them gaps are infinite. `mass` is the
    weight of all of the row's tokens up to the limit.
    """
    bits = gaps.to(tl.int32, bitcast=True)
    known = True
    if (top_k > 0) & (top_k < vocab):
        known = (count >= top_k) | (limit <= bound)
        high = tl.minimum(limit, bound).to(tl.int32, bitcast=True)
        high = smallest(bits, tl.full(gaps.shape, 1.0, tl.float32), top_k.to(tl.float32), high, -1.0, PIVOTS)
        gap = high.to(tl.float32, bitcast=True)
        limit = tl.minimum(limit, widest(tl.div_rn(gap, temperature), temperature))
    if top_p < 1.0:
        own = tl.sum(tl.where(gaps <= limit, weights, 0.0), 0)
        wanted = top_p * tl.where(limit <= bound, own, mass)
        known = known & (own >= wanted)
        high = tl.minimum(limit, bound).to(tl.int32, bitcast=True)
        high = smallest(bits, weights, wanted, high, -1.0, PIVOTS)
        gap = high.to(tl.float32, bitcast=True)
        limit = tl.minimum(limit, widest(tl.div_rn(gap, temperature), temperature))
    return limit, known & (limit <= bound)


@triton.jit
def compact(line, vocab, peak, scale, limit, bound, held_ids, HELD: tl.constexpr, BLOCK: tl.constexpr):
    """Store the ids of the first HELD tokens with gaps up to `bound`, in order.

    Returns how many there are, those not stored among them, and the mass of the row up to `limit`.
    """
    count = 0
    masses = tl.zeros([BLOCK], tl.float32)
    for start in tl.range(0, vocab, BLOCK, num_stages=STAGES):
        gaps = load_gaps(line, start, vocab, peak, BLOCK)
        masses += tl.where(gaps <= limit, weigh(gaps, scale), 0.0)
        chosen = gaps <= bound
        places = count + tl.cumsum(chosen.to(tl.int32), 0) - 1
        tl.store(held_ids + places, start + tl.arange(0, BLOCK), mask=chosen & (places < HELD))
        count += tl.sum(chosen.to(tl.int32), 0)
    return count, tl.sum(masses, 0)


@triton.jit
def pick(weights, wanted, SIZE: tl.constexpr):
    """The first place where the weights up to it are above `wanted`, and the weight before it.

    It is one of positive weight: the last such, if rounding has put `wanted` beyond the sum. At least
    one weight must be positive.
    """
    places = tl.arange(0, SIZE)
    positive = weights > 0
    last = tl.max(tl.where(positive, places, 0), 0)
    above = positive & (tl.cumsum(weights, 0) > wanted)
    place = tl.min(tl.where(above, places, last), 0)
    return place, tl.sum(tl.where(places < place, weights, 0.0), 0)


@triton.jit
def pick_of_row(line, vocab, peak, scale, limit, uniform, BLOCK: tl.constexpr, BLOCKS: tl.constexpr):
    """The token that the uniform number falls on among those up to the limit, in order of ids."""
    numbers = tl.arange(0, BLOCKS)
    masses = tl.zeros([BLOCKS], tl.float32)
    for start in tl.range(0, vocab, BLOCK, num_stages=STAGES):
        gaps = load_gaps(line, start, vocab, peak, BLOCK)
        mass = tl.sum(tl.where(gaps <= limit, weigh(gaps, scale), 0.0), 0)
        masses = tl.where(numbers == start // BLOCK, mass, masses)
    wanted = uniform * tl.sum(masses, 0)
    block, before = pick(masses, wanted, BLOCKS)
    gaps = load_gaps(line, block * BLOCK, vocab, peak, BLOCK)
    weights = tl.where(gaps <= limit, weigh(gaps, scale), 0.0)
    place, _ = pick(weights, wanted - before, BLOCK)
    return block * BLOCK + place
