"""How other kinds of servers tell their load."""

import pytest

from ridgeline.fleet.core.replica import Load
from ridgeline.fleet.engines import load_of, started_of

VLLM = """\
# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="m"} 3.0
vllm:num_requests_waiting{engine="0",model_name="m"} 2.0
vllm:kv_cache_usage_perc{engine="0",model_name="m"} 0.25
vllm:cache_config_info{block_size="32",cache_dtype="auto",num_gpu_blocks="1000"} 1.0
process_start_time_seconds 1.75e+09
"""
SGLANG = """\
sglang:num_running_reqs{model_name="m"} 5.0
sglang:num_queue_reqs{model_name="m"} 1.0
sglang:token_usage{model_name="m"} 0.5
sglang:cache_config_info{page_size="16",num_pages="100"} 1.0
"""
TGI = "tgi_batch_current_size 4\ntgi_queue_size 7\n"
LLAMA = "llamacpp:requests_processing 2\nllamacpp:requests_deferred 6\n"


@pytest.mark.parametrize(
    ("engine", "text", "load"),
    [
        ("vllm", VLLM, Load(5.0, 3, 8, 2, 0.25, kv_tokens=32_000)),
        (
            "vllm",
            VLLM.replace("kv_cache", "gpu_cache"),
            Load(5.0, 3, 8, 2, 0.25, kv_tokens=32_000),
        ),
        ("sglang", SGLANG, Load(5.0, 5, 8, 1, 0.5, kv_tokens=1600)),
        ("tgi", TGI, Load(5.0, 4, 8, 7)),
        ("llama.cpp", LLAMA, Load(5.0, 2, 8, 6)),
        (
            "ridgeline",
            VLLM + 'ridgeline_batch_limit_sequences{model="m"} 64\n',
            Load(5.0, 3, 64, 2, 0.25, kv_tokens=32_000),
        ),
    ],
)
def test_each_in_its_own_words(engine: str, text: str, load: Load) -> None:
    assert load_of(engine, text, 5.0, 8) == (load, ())


def test_what_is_absent_is_named_and_is_no_zero() -> None:
    assert load_of("vllm", VLLM.replace("running{", "at_work{"), 5.0, 8) == (
        None,
        ("vllm:num_requests_running",),
    )
    load, missing = load_of("vllm", VLLM.replace("kv_cache_usage", "renamed"), 5.0, 8)
    assert load is not None and load.running == 3
    assert missing == ("vllm:kv_cache_usage_perc",)
    load, missing = load_of("vllm", "", 5.0, 8)
    assert load is None and len(missing) == 4


def test_a_server_without_metrics_is_none_that_hides_them() -> None:
    assert load_of("openai", "", 5.0, 8) == (None, ())


@pytest.mark.parametrize("text", ["nonsense", "vllm:num_requests_running", "# only\n", "\0{} x\n", "a{ 1"])
def test_nonsense_is_no_load(text: str) -> None:
    assert load_of("vllm", text, 5.0, 8)[0] is None


def test_when_its_process_began() -> None:
    assert started_of(VLLM) == 1.75e9
    assert started_of(LLAMA) is None
