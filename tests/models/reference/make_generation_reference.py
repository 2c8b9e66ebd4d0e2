"""Make `smollm2_generation.json`: what Hugging Face transformers answers to 20 prompts.

    python tests/models/reference/make_generation_reference.py [--output FILE]

transformers loads the default model's GGUF file by itself (weights, tokenizer, template), in float32,
and continues each prompt greedily for 64 tokens through its own KV cache; end tokens are ordinary
here. Stored per prompt: its token ids, the answer's, the distance between the two best logits of each
step (where that is below 1e-3 another order of additions may choose otherwise), and the logits of the
first step at 96 token ids: the 32 best and 64 spread over the vocabulary.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

from ridgeline.models.catalogue import pull

HERE = Path(__file__).parent
NEW_TOKENS = 64

Prompt = str | list[dict[str, str]]

SYSTEM = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"


def chat(*turns: str) -> list[dict[str, str]]:
    """User and assistant in turn, after the system's words that the default template has."""
    roles = [{"role": ("user", "assistant")[i % 2], "content": turn} for i, turn in enumerate(turns)]
    return [{"role": "system", "content": SYSTEM}, *roles]


PROMPTS: list[Prompt] = [
    chat("What is the capital of France?"),
    chat("Write a haiku about the sea."),
    chat("My name is Ada.", "Nice to meet you, Ada! How can I help?", "What is my name?"),
    chat("List three primes.", "2, 3 and 5.", "Two more.", "7 and 11.", "What do they have in common?"),
    chat("Schreibe einen Satz über Bücher und Züge."),
    chat("Fix this: def add(a, b): retrun a + b"),
    [{"role": "system", "content": "Answer like a pirate."}, {"role": "user", "content": "Where is my hat?"}],
    chat("Summarise: " + "The river rises in the hills and meets the sea at the old harbour town. " * 12),
    chat(""),
    "The",
    "Once upon a time, in a village by a lake,",
    "def fibonacci(n):\n    if n < 2:\n        return n\n",
    "import numpy as np\n\nclass Matrix:\n\tdef __init__(self, rows):\n\t\t",
    "SELECT name, COUNT(*) FROM orders WHERE",
    "Наука — это",
    "東京は日本の",
    "The emoji 🙂👩‍🚀🏳️‍🌈 means",
    "1, 1, 2, 3, 5, 8, 13,",
    "<p>Hello <b>world</b></p>\n<ul>\n  <li>",
    " ".join(f"Item {i} costs {i * 7 % 23} coins." for i in range(60)) + " The cheapest item is",
]


def greedy(model: Any, ids: list[int]) -> dict[str, Any]:
    """Continue a prompt through transformers' own cache."""
    out = model(torch.tensor([ids]), use_cache=True)
    logits = out.logits[0, -1]
    probes = sorted({*logits.topk(32).indices.tolist(), *range(11, len(logits), len(logits) // 64)})
    first = {"ids": probes, "logits": [round(value, 5) for value in logits[probes].tolist()]}
    answer, gaps = [], []
    for _ in range(NEW_TOKENS):
        best = logits.topk(2)
        answer.append(int(best.indices[0]))
        gaps.append(round(float(best.values[0] - best.values[1]), 5))
        out = model(torch.tensor([[answer[-1]]]), past_key_values=out.past_key_values, use_cache=True)
        logits = out.logits[0, -1]
    return {"prompt_ids": ids, "answer_ids": answer, "gaps": gaps, "first_logits": first}


def token_ids(tokenizer: Any, prompt: Prompt) -> list[int]:
    """As transformers' own tokenizer and template give them."""
    if isinstance(prompt, str):
        return list(tokenizer(prompt)["input_ids"])
    text = tokenizer.apply_chat_template(prompt, tokenize=False, add_generation_prompt=True)
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def load(path: Path) -> Any:
    """The model by transformers' own reading of the file (`from_pretrained` would need accelerate)."""
    config = AutoConfig.from_pretrained(path.parent, gguf_file=path.name)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    read = load_gguf_checkpoint(str(path), return_tensors=True, model_to_load=model)
    missing, unexpected = model.load_state_dict(read["tensors"], strict=False)
    if unexpected or set(missing) - {"lm_head.weight"}:
        raise RuntimeError(f"transformers misread {path}: {missing} missing, {unexpected} unexpected")
    model.tie_weights()
    return model.eval()


def make() -> list[dict[str, Any]]:
    """All prompts with their answers; minutes of work."""
    path = pull("smollm2-135m")
    model = load(path)
    tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    with torch.inference_mode():
        return [{"prompt": prompt, **greedy(model, token_ids(tokenizer, prompt))} for prompt in PROMPTS]


def main() -> None:
    """Read the command line and write the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--output", type=Path, default=HERE / "smollm2_generation.json")
    output = parser.parse_args().output
    rows = ",\n".join(json.dumps(row, ensure_ascii=False) for row in make())
    output.write_text(f"[\n{rows}\n]\n", encoding="utf-8")


if __name__ == "__main__":
    main()
