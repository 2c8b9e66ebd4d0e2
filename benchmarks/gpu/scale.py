"""How large everything is: as on a GPU, or just large enough to go every way on a CPU."""

from dataclasses import dataclass

from gpu.models import COMPARED, LLAMA_1B, LLAMA_8B, Config, tiny

DTYPE = "bfloat16"
"""Of all that is timed."""


@dataclass(frozen=True, slots=True)
class Conversations:
    """A load: everybody asks at once, after the same system prompt.

    Attributes:
        count: conversations.
        shared_tokens: system prompt.
        question_tokens: least and most.
        answer_tokens: least and most; answers never end by themselves.
        max_batch: sequences in a step.
        max_batch_tokens: tokens in a step.
    """

    count: int
    shared_tokens: int
    question_tokens: tuple[int, int]
    answer_tokens: tuple[int, int]
    max_batch: int
    max_batch_tokens: int


@dataclass(frozen=True, slots=True)
class Scale:
    """Sizes of one run.

    Attributes:
        compared: small models by name, for correctness.
        prompt_tokens: lengths of the prompts they are compared with.
        answers: how many are drawn together and alone, and the tokens of each.
        heads: query heads, KV heads and head_dim of the attention compared alone.
        long_contexts: positions its single tokens attend to.
        long_chunk: start and tokens of its chunk.
        window: of its layer with a window.
        hidden: rows of the norms compared alone; a second one is an MLP's.
        vocab: of the draws compared alone.
        draws: rows of them.
        copy_bytes: size of the buffer that is copied.
        product: rows and columns of the matrices multiplied.
        repetitions: of every ceiling; the median counts.
        timed: models by name.
        max_context_tokens: of an executor that is timed.
        batches: decode.
        contexts: decode, tokens before the first step measured.
        steps: decode steps measured.
        prefills: tokens.
        kv_memory_bytes: None takes what is left.
        load: of the engine, and of others.
        load_model: which of `timed`.
        profiled_batch: batch of the decode step that is taken apart.
        profiled_tokens: its context, and the length of the prompt that is.
    """

    compared: dict[str, Config]
    prompt_tokens: tuple[int, int, int]
    answers: tuple[int, int]
    heads: tuple[int, int, int]
    long_contexts: tuple[int, ...]
    long_chunk: tuple[int, int]
    window: int
    hidden: tuple[int, int]
    vocab: int
    draws: int
    copy_bytes: int
    product: int
    repetitions: int
    timed: dict[str, Config]
    max_context_tokens: int
    batches: tuple[int, ...]
    contexts: tuple[int, ...]
    steps: int
    prefills: tuple[int, ...]
    kv_memory_bytes: int | None
    load: Conversations
    load_model: str
    profiled_batch: int
    profiled_tokens: int


FULL = Scale(
    compared=COMPARED,
    prompt_tokens=(211, 95, 16),
    answers=(5, 12),
    heads=(8, 2, 128),
    long_contexts=(16_384, 9_001, 513, 1),
    long_chunk=(2_039, 150),
    window=1_000,
    hidden=(4096, 14336),
    vocab=128_256,
    draws=64,
    copy_bytes=8 << 30,
    product=8192,
    repetitions=20,
    timed={"llama-3.2-1b": LLAMA_1B, "llama-3.1-8b": LLAMA_8B},
    max_context_tokens=32_768,
    batches=(1, 8, 32, 128, 256),
    contexts=(512, 4_096),
    steps=40,
    prefills=(512, 4_096, 16_384),
    kv_memory_bytes=None,
    load=Conversations(128, 1_024, (64, 512), (64, 256), 256, 8_192),
    load_model="llama-3.1-8b",
    profiled_batch=32,
    profiled_tokens=4_096,
)

SMOKE = Scale(
    compared={name: tiny(config) | {"sliding_window": 9} for name, config in COMPARED.items()},
    prompt_tokens=(23, 5, 2),
    answers=(3, 4),
    heads=(6, 2, 16),
    long_contexts=(130, 33, 1),
    long_chunk=(20, 7),
    window=21,
    hidden=(48, 80),
    vocab=320,
    draws=8,
    copy_bytes=1 << 16,
    product=32,
    repetitions=3,
    timed={"llama-3.2-1b": tiny(LLAMA_1B), "llama-3.1-8b": tiny(LLAMA_8B)},
    max_context_tokens=256,
    batches=(1, 3),
    contexts=(20, 200),
    steps=4,
    prefills=(19, 40),
    kv_memory_bytes=24 * 4096,
    load=Conversations(5, 33, (3, 9), (3, 6), 8, 64),
    load_model="llama-3.1-8b",
    profiled_batch=2,
    profiled_tokens=20,
)
