"""transformers' continuous batching under the load of `load.py`, with the same weights.

Its defaults are left alone: it chooses attention, blocks, graphs and batch by what it finds. What it
chose is told, for it is slower without flash attention than with it.
"""

import logging
import time
from dataclasses import replace
from typing import Any

import torch

from gpu.bench import Bench, Record
from gpu.load import ROUNDS, Conversation, conversations, rates
from gpu.models import Config
from gpu.places import free_unused
from gpu.scale import DTYPE
from ridgeline.models.files import random_model

_END_SECONDS = 20.0
"""Left for telling what came in before the time was up."""


def measure_transformers(bench: Bench, name: str) -> None:
    """The same conversations, the second round of them."""
    import transformers

    logging.getLogger("transformers").setLevel(logging.ERROR)
    config = bench.scale.timed[name]
    started = time.monotonic()
    model = same_model(bench, config)
    bench.put("loads", {"model": name, "load_seconds": time.monotonic() - started})
    facts = {"engine": f"transformers {transformers.__version__}", "model": name}
    for salt, what in enumerate(ROUNDS):
        asked = conversations(bench.scale.load, config["vocab_size"], bench.seed, salt)
        if what == ROUNDS[0]:  # to have kernels loaded; the measured round needs the time
            few = asked[: max(2, len(asked) // 16)]
            asked = [replace(each, answer_tokens=min(each.answer_tokens, 8)) for each in few]
        if bench.has_time(_END_SECONDS + 10.0, f"the {what} round of transformers"):
            _run(bench, model, asked, facts | {"round": what})
    del model
    free_unused(bench.place)


def same_model(bench: Bench, config: Config) -> Any:
    """transformers' model with the tensors that Ridgeline's executor makes from the same seed."""
    import transformers

    place = bench.place.torch_device
    made = transformers.LlamaConfig(
        **{key: value for key, value in config.items() if key != "model_type"},
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=None,
    )
    with torch.device(place):
        model = transformers.AutoModelForCausalLM.from_config(
            made, dtype=getattr(torch, DTYPE), attn_implementation="sdpa"
        ).eval()
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for name, tensor in random_model(config, seed=bench.seed).tensors(place):
            parameters.pop(name).copy_(tensor)
    if parameters:
        raise RuntimeError(f"transformers has tensors that Ridgeline has not: {', '.join(parameters)}")
    return model


def _settings(bench: Bench) -> dict[str, Any]:
    import transformers
    from transformers.generation import configuration_utils

    most = bench.scale.load.answer_tokens[1]
    generation = transformers.GenerationConfig(
        max_new_tokens=most, do_sample=False, eos_token_id=-1, pad_token_id=0
    )
    settings: dict[str, Any] = {"generation_config": generation, "block": True, "timeout": 5}
    if bench.place.torch_device.type == "cpu":  # it asks CUDA how much memory there is
        sizes = {"num_blocks": 64, "max_batch_tokens": 64}
        settings["continuous_batching_config"] = configuration_utils.ContinuousBatchingConfig(**sizes)
    return settings


def _run(bench: Bench, model: Any, asked: list[Conversation], facts: Record) -> None:
    """All conversations at once; where time runs out, what came in until then."""
    done: dict[str, Any] = {}
    with model.continuous_batching_context_manager(**_settings(bench)) as manager:
        started = time.perf_counter()
        for index, conversation in enumerate(asked):
            manager.add_request(
                list(conversation.prompt),
                request_id=str(index),
                max_new_tokens=conversation.answer_tokens,
                record_timestamps=True,
            )
        in_time = True
        while len(done) < len(asked) and in_time:
            result = manager.get_result(timeout=1)
            if result is not None and result.is_finished():
                if result.error is not None:
                    raise RuntimeError(f"transformers failed: {result.error}")
                done[result.request_id] = result
            elif result is None and not manager.is_running():
                raise RuntimeError("the thread of transformers' continuous batching ended early")
            in_time = time.monotonic() < bench.deadline - _END_SECONDS
        seconds = time.perf_counter() - started
        under_way = 0 if in_time else _under_way(manager)
        chosen = getattr(manager, "continuous_batching_config", None)
        # Told before the manager ends: its thread may take long to, or not end at all.
        bench.put(
            "load",
            {
                **facts,
                "seconds": seconds,
                **_came_in(asked, done, under_way, seconds, started),
                "finished": len(done),
                "attention": model.config._attn_implementation,
                "cuda_graphs": str(getattr(chosen, "use_cuda_graph", "unknown")),
                "max_batch_tokens": getattr(chosen, "max_batch_tokens", None),
            },
        )
        if not in_time:
            manager.stop(block=True, timeout=10, hard_stop=True)


def _under_way(manager: Any) -> int:
    """Tokens of answers that are not finished; the time they took would else count for nothing."""
    active = manager.batch_processor.scheduler.active_requests
    return sum(len(state.generated_tokens) for state in list(active.values()))


def _came_in(
    asked: list[Conversation], done: dict[str, Any], under_way: int, seconds: float, started: float
) -> Record:
    if not done:
        raise RuntimeError(f"no answer was finished within {seconds:.0f} s")
    for key, result in done.items():
        wanted = asked[int(key)].answer_tokens
        if len(result.generated_tokens) != wanted:
            raise RuntimeError(f"an answer has {len(result.generated_tokens)} tokens, not {wanted}")
    finished = [asked[int(key)] for key in done]
    first = [result.timestamps[0] - started for result in done.values() if result.timestamps]
    tokens = {key: result.generated_tokens[0] for key, result in done.items()}
    return {
        **rates(finished, under_way + sum(c.answer_tokens for c in finished), seconds, first or [seconds]),
        "first_tokens": [tokens.get(str(index)) for index in range(len(asked))],
    }
