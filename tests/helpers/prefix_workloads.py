"""Requests as prefix caches see them, made up: `(seconds, keys of the prompt's blocks)`."""

import itertools
import random

Requests = list[tuple[float, tuple[int, ...]]]


class Mix:
    """Conversations of several habits, merged in order of time. Block ids never repeat by chance."""

    def __init__(self, seed):
        self.random = random.Random(seed)
        self._ids = itertools.count()
        self.requests = []

    def blocks(self, count):
        return tuple(next(self._ids) for _ in range(count))

    def conversation(self, start, turns, first, more, gap, prefix=()):
        """`first`, `more` and `gap` are called for the blocks of each prompt and the seconds between."""
        prompt, now = (*prefix, *self.blocks(first())), start
        for _ in range(turns):
            self.requests.append((now, prompt))
            prompt = (*prompt, *self.blocks(more()))
            now += gap()

    def arrivals(self, begin, end, per_second):
        now = begin
        while (now := now + self.random.expovariate(per_second)) < end:
            yield now

    def turns(self, mean):
        """Geometric: each turn may be the last, as seldom as the mean says."""
        count = 1
        while self.random.random() > 1 / mean:
            count += 1
        return count

    def made(self) -> Requests:
        return sorted(self.requests, key=lambda request: request[0])


def chats(mix, begin, end, rate=0.5, median=60.0, sigma=1.0, mean_turns=4, prefix=()):
    draw = mix.random
    for start in mix.arrivals(begin, end, rate):
        mix.conversation(
            start,
            mix.turns(mean_turns),
            lambda: draw.randint(2, 12),
            lambda: draw.randint(1, 3),
            lambda: draw.lognormvariate(0, sigma) * median,
            prefix,
        )


def agents(mix, begin, end, rate=0.05):
    draw = mix.random
    prefix = mix.blocks(6)
    for start in mix.arrivals(begin, end, rate):
        mix.conversation(
            start,
            mix.turns(20),
            lambda: draw.randint(2, 6),
            lambda: draw.randint(1, 4),
            lambda: draw.expovariate(1 / 5.0) + 1,
            prefix,
        )


def summaries(mix, begin, end, rate=0.2):
    for start in mix.arrivals(begin, end, rate):
        mix.conversation(start, 1, lambda: mix.random.randint(10, 60), int, float)


def documents(mix, begin, end, rate=0.5, count=60):
    """Questions about documents, some of which are asked about more often than others."""
    library = [mix.blocks(mix.random.randint(5, 30)) for _ in range(count)]
    weights = [1 / (rank + 1) for rank in range(count)]
    for start in mix.arrivals(begin, end, rate):
        (text,) = mix.random.choices(library, weights)
        mix.conversation(start, 1, lambda: 1, int, float, text)


def retrieval(mix, begin, end, rate=0.3):
    """Chats whose prompts end with found pages, which the next prompt does not have any more."""
    for start in mix.arrivals(begin, end, rate):
        history, now = mix.blocks(2), start
        for _ in range(mix.turns(5)):
            mix.requests.append((now, (*history, *mix.blocks(mix.random.randint(4, 20)))))
            history = (*history, *mix.blocks(1))
            now += mix.random.lognormvariate(0, 1) * 50


def made(seed, *parts) -> Requests:
    """`parts` are functions of a mix, with begin, end and further arguments in a dict."""
    mix = Mix(seed)
    for make, begin, end, more in parts:
        make(mix, begin, end, **more)
    return mix.made()


def workloads(seed, length=3000.0):
    """Every habit alone and together, by name."""
    half, end = length / 2, length
    system = tuple(range(-8, 0))
    return {
        "chats": made(seed, (chats, 0, end, {})),
        "hasty chats": made(seed, (chats, 0, end, {"median": 15.0, "sigma": 0.5, "mean_turns": 8})),
        "slow chats": made(seed, (chats, 0, end, {"median": 300.0, "sigma": 1.5})),
        "one system prompt": made(seed, (chats, 0, end, {"prefix": system})),
        "agents": made(seed, (agents, 0, end, {})),
        "documents": made(seed, (documents, 0, end, {})),
        "retrieval": made(seed, (retrieval, 0, end, {})),
        "chats and summaries": made(seed, (chats, 0, end, {}), (summaries, 0, end, {})),
        "summaries with few chats": made(
            seed, (chats, 0, end, {"rate": 0.1}), (summaries, 0, end, {"rate": 0.5})
        ),
        "all at once": made(
            seed,
            (chats, 0, end, {"prefix": system}),
            (agents, 0, end, {}),
            (summaries, 0, end, {}),
            (documents, 0, end, {}),
        ),
        "chats, then agents": made(seed, (chats, 0, half, {}), (agents, half, end, {"rate": 0.1})),
        "agents, then chats": made(seed, (agents, 0, half, {"rate": 0.1}), (chats, half, end, {})),
        "hasty, then slow": made(
            seed, (chats, 0, half, {"median": 10.0, "sigma": 0.5}), (chats, half, end, {"median": 300.0})
        ),
    }
