"""vLLM without a server, its engine driven step by step; runs in vLLM's own environment."""

import argparse
import itertools
import sys
import time
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from cpu.answering import answer_requests, token_ids
from cpu.rows import AMPLE_TOKENS, NEW_TOKENS


class Driver:
    """Puts requests into an engine and steps it."""

    def __init__(self, engine: Any, vocab: int) -> None:
        self._engine = engine
        self._vocab = vocab
        self._numbers = itertools.count()

    def prefill(self, prompt_tokens: int) -> float:
        """Tokens per second of one prompt alone, to its first token."""
        started = time.perf_counter()
        self._add(prompt_tokens, 1)
        while not self._step():
            pass
        seconds = time.perf_counter() - started
        self._drain()
        return prompt_tokens / seconds

    def decode(self, sequences: int, prompt_tokens: int) -> float:
        """Tokens per second of the steps after all prompts."""
        ids = [self._add(prompt_tokens, AMPLE_TOKENS) for _ in range(sequences)]
        waiting = set(ids)
        while waiting:
            waiting -= {output.request_id for output in self._step()}
        started, drawn, wanted = time.perf_counter(), 0, (NEW_TOKENS - 1) * sequences
        while drawn < wanted:
            outputs = self._step()
            if not outputs and not self._engine.has_unfinished_requests():
                raise RuntimeError("the requests ended early")
            drawn += sum(len(output.outputs[0].token_ids) for output in outputs)
        seconds = time.perf_counter() - started
        self._engine.abort_request(ids)
        self._drain()
        return drawn / seconds

    def _add(self, prompt_tokens: int, new_tokens: int) -> str:
        from vllm import SamplingParams  # type: ignore[import-not-found]
        from vllm.sampling_params import RequestOutputKind  # type: ignore[import-not-found]

        number = next(self._numbers)
        params = SamplingParams(
            temperature=0.0,
            max_tokens=new_tokens,
            ignore_eos=True,
            detokenize=False,
            output_kind=RequestOutputKind.DELTA,
        )
        prompt = {"prompt_token_ids": token_ids(prompt_tokens, number, self._vocab)}
        self._engine.add_request(str(number), prompt, params)
        return str(number)

    def _step(self) -> list[Any]:
        return [output for output in self._engine.step() if output.outputs[0].token_ids]

    def _drain(self) -> None:
        while self._engine.has_unfinished_requests():
            self._step()


def main() -> None:
    """Load, then measure what is asked for."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True)
    parser.add_argument("--context", type=int, required=True)
    options = parser.parse_args()
    import torch
    import vllm

    model = vllm.LLM(
        options.model,
        dtype="bfloat16",
        max_model_len=options.context,
        enable_prefix_caching=False,
        disable_log_stats=True,
    )
    engine = model.llm_engine
    driver = Driver(engine, engine.model_config.get_vocab_size())

    def carry_out(task: dict[str, Any]) -> dict[str, float]:
        if task["kind"] == "prefill":
            return {"tokens_per_second": driver.prefill(task["prompt_tokens"])}
        return {"tokens_per_second": driver.decode(task["sequences"], task["prompt_tokens"])}

    answer_requests({"vllm": vllm.__version__, "torch": torch.__version__}, carry_out)


if __name__ == "__main__":
    main()
