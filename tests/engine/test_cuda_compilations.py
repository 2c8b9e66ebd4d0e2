"""After warming up, no step has a kernel compiled: a request would wait for it, a recording could not.

Triton's own launch path decides which kernels there are, from the arguments that the executor gives. Run
as a script, without the interpreter and without a GPU, this file prints them; nothing is compiled.
"""

import json
import os
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
import torch
import triton
from lazy_device import LazyDevice
from step_driver import GREEDY, StepDriver
from triton.backends.compiler import GPUTarget

from ridgeline.engine.executors.cuda import forward
from ridgeline.engine.executors.cuda.executor import TorchCudaExecutor
from ridgeline.models.files import random_model
from ridgeline.protocol import Sampling

CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "vocab_size": 320,
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "tie_word_embeddings": True,
    "hidden_act": "silu",
}
EVERYTHING = Sampling(
    temperature=0.7,
    repetition_penalty=1.2,
    logprobs=3,
    prompt_logprobs=1,
    seed=1,
    logit_bias={5: 1.0},
)


def executor(kv_dtype: str) -> TorchCudaExecutor:
    return TorchCudaExecutor(
        random_model(CONFIG, name="tiny"),
        dtype="bfloat16",
        kv_dtype=kv_dtype,
        kv_memory_bytes=1 << 24,
        max_batch=40,
        max_batch_tokens=1024,
        max_context_tokens=None,
        device=LazyDevice(processors=8),
    )


def steps_of_all_sizes(driver: StepDriver) -> None:
    """Prompts of 1 to 50 tokens beside decoding sequences, batches of 1 to 30, and special rows."""
    slots: list[int] = []
    for count in range(1, 31):
        slots.append(
            driver.admit([1] * (count * 7 % 50 + 1), GREEDY if count % 2 else replace(GREEDY, top_k=5))
        )
        driver.step({slot: driver.pending(slot) for slot in slots})
    long = driver.admit([1] * 900)
    driver.step({long: 700, slots[0]: 1})
    driver.step({long: 200})
    for count in range(1, 31):
        driver.step(dict.fromkeys(slots[:count], 1))
    special = [driver.admit([1] * 30, EVERYTHING, banned_token_ids=(2,), min_tokens=4) for _ in range(4)]
    driver.step(dict.fromkeys(special[:3], 17))
    driver.step({slot: driver.pending(slot) for slot in special})
    for slot in special:  # what nothing has computed may be no number, which ends a scored sequence
        driver.sequences[slot].token_ids += [1] * (1 - driver.pending(slot))
    driver.step(dict.fromkeys([*special, *slots[:9]], 1))


def launched_kernels(kv_dtype: str) -> dict[str, list[str]]:
    """Kernels that warming up has compiled, and those that are compiled after it."""
    found: dict[str, list[str]] = {"warm": [], "later": []}
    when = "warm"

    def note(*, repr: str, compile: dict[str, Any], **rest: Any) -> bool:
        del rest
        kernel = f"{repr} {compile['specialization_data']}"
        if kernel not in found["warm"] and kernel not in found[when]:
            found[when].append(kernel)
        return True  # so that it is not compiled, and not launched

    def zeros_after(launch: Any) -> Any:
        return lambda *arguments: launch(*arguments).zero_()

    triton.runtime.driver.set_active(
        SimpleNamespace(
            get_current_device=lambda: 0,
            get_current_stream=lambda device: 0,
            get_current_target=lambda: GPUTarget("cuda", 90, 32),
        )
    )
    triton.knobs.runtime.jit_cache_hook = note
    with (
        mock.patch.object(forward, "resolve_tokens", zeros_after(forward.resolve_tokens)),
        mock.patch.object(forward, "draw", zeros_after(forward.draw)),
    ):
        warm = executor(kv_dtype)
        warm.warm_up()
        when = "later"
        steps_of_all_sizes(StepDriver(warm))
    return found


@pytest.mark.parametrize("kv_dtype", ["auto", "float8"])
def test_no_step_compiles_a_kernel_after_warming_up(kv_dtype: str) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment["PYTHONPATH"] = os.pathsep.join(sys.path)
    script = subprocess.run(
        [sys.executable, __file__, kv_dtype], capture_output=True, text=True, env=environment, check=False
    )
    assert script.returncode == 0, script.stderr
    found = json.loads(script.stdout)
    assert found["later"] == []
    names = {kernel.split("[")[0].strip("_") for kernel in found["warm"]}
    assert names == {
        "resolve_kernel",
        "rms_norm_kernel",
        "rotate_and_store_kernel",
        "attend_units_kernel",
        "merge_units_kernel",
        "few_rows_kernel",
        "silu_mul_kernel",
        "draw_kernel",
        "penalise_kernel",
        "count_kernel",
    }


if __name__ == "__main__":
    torch.set_num_threads(1)
    json.dump(launched_kernels(sys.argv[1]), sys.stdout)
