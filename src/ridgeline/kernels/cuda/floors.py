"""Which tokens of a row may be drawn, and which one is: device functions of the drawing kernel.

Where filters on a CPU work with heights, (logit - largest) / temperature, these work with *gaps*,
largest - logit: 0 for the most probable token, never negative, so that their bit patterns are in
order as integers. Dividing by the temperature keeps that order, so a floor among the heights is a
*limit* among the gaps; `widest` turns one into the other without losing a tie. A token's weight,
exp(-gap / temperature), is in (0, 1].

Nothing is sorted. The smallest gap at which a count or a mass is reached is found by narrowing a
range of bit patterns, three pivots per pass. A sum of nonnegative floats whose order does not depend
on the pivot never decreases with the pivot, so rounding cannot mislead the search.

It runs over what is *held* in registers, the three largest logits of each lane, where that is
certain to hold all that is kept: where the limit is less than the gap of every lane's fourth. With
4096 lanes, the thousand or so most probable tokens of a row are held. Else it runs over the row.
"""

import triton
import triton.language as tl

LARGEST, LARGEST_BITS = tl.constexpr(3.4028234663852886e38), tl.constexpr(0x7F7FFFFF)
"""The largest finite gap, and its bit pattern."""

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
    near = tl.minimum(depth * temperature, LARGEST).to(tl.int32, bitcast=True)
    # Rounding moves the product and the quotient by less than three units in the last place.
    bits = tl.minimum(tl.maximum(near - 8 + tl.arange(0, 16), 0), LARGEST_BITS)
    within = tl.div_rn(bits.to(tl.float32, bitcast=True), temperature) <= depth
    return tl.max(tl.where(within, bits, 0), 0).to(tl.float32, bitcast=True)


@triton.jit
def _pivots(low, high):
    """Three patterns that part low .. high - 1, evenly if there are enough."""
    step = (high - low) // 4 + 1
    return (
        tl.minimum(low + step - 1, high - 1),
        tl.minimum(low + step * 2 - 1, high - 1),
        tl.minimum(low + step * 3 - 1, high - 1),
    )


@triton.jit
def _narrow(low, high, found, first, second, third, to_first, to_second, to_third, wanted):
    """The range that is left when the sums up to three pivots are known, and the sum at its end."""
    if to_first >= wanted:
        high, found = first, to_first
    elif to_second >= wanted:
        low, high, found = first + 1, second, to_second
    elif to_third >= wanted:
        low, high, found = second + 1, third, to_third
    else:
        low = third + 1
    return low, high, found


@triton.jit
def sum_held(a, b, c, of_a, of_b, of_c, high):
    """Sum of the weights `of` the held tokens whose bit patterns are not above `high`."""
    sums = tl.where(a <= high, of_a, 0.0) + tl.where(b <= high, of_b, 0.0) + tl.where(c <= high, of_c, 0.0)
    return tl.sum(sums, 0)


@triton.jit
def smallest_held(a, b, c, of_a, of_b, of_c, wanted, high):
    """The smallest pattern of a held token at which the weights up to it reach `wanted`.

    If they do not up to `high`, the largest that is not above it.
    """
    low = 0
    end = high
    found = float("inf")
    while (low < end) & (found > wanted):
        first, second, third = _pivots(low, end)
        to_first = sum_held(a, b, c, of_a, of_b, of_c, first)
        to_second = sum_held(a, b, c, of_a, of_b, of_c, second)
        to_third = sum_held(a, b, c, of_a, of_b, of_c, third)
        low, end, found = _narrow(
            low, end, found, first, second, third, to_first, to_second, to_third, wanted
        )
    within = tl.maximum(tl.where(a <= end, a, 0), tl.where(b <= end, b, 0))
    return tl.max(tl.maximum(within, tl.where(c <= end, c, 0)), 0)


@triton.jit
def smallest_of_row(line, vocab, peak, scale, wanted, high, COUNT: tl.constexpr, BLOCK: tl.constexpr):
    """The smallest pattern at which the weights of a row, or 1 each if COUNT, reach `wanted`.

    If they do not up to `high`, that.
    """
    low = 0
    found = float("inf")
    while low < high:
        first, second, third = _pivots(low, high)
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
        sums = tl.sum(to_first, 0), tl.sum(to_second, 0), tl.sum(to_third, 0)
        low, high, found = _narrow(low, high, found, first, second, third, sums[0], sums[1], sums[2], wanted)
    return high


@triton.jit
def _limited(limit, bits, temperature):
    """The limit that keeps the token of this gap, and all whose height is not below its own."""
    height = tl.div_rn(bits.to(tl.float32, bitcast=True), temperature)
    return tl.minimum(limit, widest(height, temperature))


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
    """The limit after top_k and top_p, from the one before, whatever it keeps; sixteen passes each."""
    if (top_k > 0) & (top_k < vocab):
        high = limit.to(tl.int32, bitcast=True)
        high = smallest_of_row(line, vocab, peak, scale, top_k.to(tl.float32), high, True, BLOCK)
        limit = _limited(limit, high, temperature)
    if top_p < 1.0:
        wanted = top_p * mass_of_row(line, vocab, peak, scale, limit, BLOCK)
        high = limit.to(tl.int32, bitcast=True)
        high = smallest_of_row(line, vocab, peak, scale, wanted, high, False, BLOCK)
        limit = _limited(limit, high, temperature)
    return limit


@triton.jit
def limit_of_held(
    first, second, third, fourth, line, vocab, peak, temperature, scale, limit, top_k, top_p,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """As `limit_of_row`, from the largest logits of each lane: the limit, and whether it is certain."""
    a = (peak - first).to(tl.int32, bitcast=True)
    b = (peak - second).to(tl.int32, bitcast=True)
    c = (peak - third).to(tl.int32, bitcast=True)
    # Every token with a pattern up to this one is held.
    complete = (peak - tl.max(fourth, 0)).to(tl.int32, bitcast=True) - 1
    known = True
    if (top_k > 0) & (top_k < vocab):
        wanted = top_k.to(tl.float32)
        one = tl.full([BLOCK], 1.0, tl.float32)
        bits = limit.to(tl.int32, bitcast=True)
        high = tl.minimum(bits, complete)
        known = (bits <= complete) | (sum_held(a, b, c, one, one, one, high) >= wanted)
        high = smallest_held(a, b, c, one, one, one, wanted, high)
        limit = _limited(limit, high, temperature)
    if known & (top_p < 1.0):
        of_a, of_b, of_c = weigh(peak - first, scale), weigh(peak - second, scale), weigh(peak - third, scale)
        bits = limit.to(tl.int32, bitcast=True)
        high = tl.minimum(bits, complete)
        held = sum_held(a, b, c, of_a, of_b, of_c, high)
        total = held
        if bits > complete:
            total = mass_of_row(line, vocab, peak, scale, limit, BLOCK)
        known = held >= top_p * total
        high = smallest_held(a, b, c, of_a, of_b, of_c, top_p * total, high)
        limit = _limited(limit, high, temperature)
    return limit, known


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
