"""What assembling a model costs in host memory when its weights go to a device."""

import json
import struct
import subprocess
import sys
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from small_files import CONFIG, write_tokenizer

from ridgeline.kernels.reference import ReferenceKernels
from ridgeline.models.config import ModelConfig
from ridgeline.models.config_readers import config_from_json
from ridgeline.models.files import random_model
from ridgeline.models.weights import assemble

LARGE = CONFIG | {
    "hidden_size": 512,
    "num_attention_heads": 8,
    "intermediate_size": 2048,
    "vocab_size": 32768,
    "num_hidden_layers": 6,
}
"""223 MB in float32, of which the embedding and the head are 67 MB each."""

ASSEMBLE = """
import sys
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from ridgeline.models.files import open_model
from ridgeline.models.weights import assemble


class Kernels:
    def linear(self, weight, bias):
        return lambda x: x @ weight.T

    def gated_linear(self, weight, bias):
        return self.linear(weight, bias)

    def head(self, weight):
        return self.linear(weight, None)


def anonymous():
    "Bytes of this process that are no file's pages."
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("RssAnon"))


class Watch(TorchDispatchMode):
    "The most there is after any operation."
    peak = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        Watch.peak = max(Watch.peak, anonymous())
        return result


files = open_model(sys.argv[1])
config, tensors = files.config, files.tensors()
with Watch():  # what torch loads at its first use is not the model's
    torch.ones(2, 2).to(torch.bfloat16).to("meta")
Watch.peak = before = anonymous()
with Watch():
    weights = assemble(config, tensors, Kernels(), torch.bfloat16, torch.device("meta"))
placed = sum(layer.input_norm.device == weights.embedding.device for layer in weights.layers)
print(weights.embedding.device, placed, Watch.peak - before)
"""


def write_sparse_folder(folder: Path, values: dict[str, Any], shards: int) -> ModelConfig:
    """A folder whose weights are zeros that take no room on the disk."""
    config = config_from_json(values, "test")
    (folder / "config.json").write_text(json.dumps(values))
    write_tokenizer(folder)
    names, weight_map = list(config.tensor_shapes()), {}
    for shard in range(shards):
        file = f"model-{shard + 1:05d}-of-{shards:05d}.safetensors"
        header, end = {}, 0
        for name in names[shard::shards]:
            shape = config.tensor_shapes()[name]
            size = 4 * int(torch.Size(shape).numel())
            header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [end, end + size]}
            end += size
            weight_map[name] = file
        text = json.dumps(header).encode()
        with (folder / file).open("wb") as stream:
            stream.write(struct.pack("<Q", len(text)) + text)
            stream.truncate(8 + len(text) + end)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return config


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_host_never_holds_more_than_a_tensor(tmp_path: Path) -> None:
    config = write_sparse_folder(tmp_path, LARGE, shards=3)
    done = subprocess.run(
        [sys.executable, "-c", ASSEMBLE, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    device, placed, peak = done.stdout.split()
    sizes = [4 * torch.Size(shape).numel() for shape in config.tensor_shapes().values()]
    assert sum(sizes) > 200e6
    assert (device, int(placed)) == ("meta", config.layers)
    assert 0 < int(peak) < 1.5 * max(sizes)


def test_a_tensor_is_gone_before_the_next_is_read() -> None:
    files = random_model(CONFIG)
    last: list[weakref.ref[torch.Tensor]] = []

    def watched() -> Iterator[tuple[str, torch.Tensor]]:
        for name in files.config.tensor_shapes():
            assert not last or last.pop()() is None, f"the tensor before {name} is still held"
            tensor = files.weights.tensor(name)
            last.append(weakref.ref(tensor))
            yield name, tensor
            del tensor

    assemble(files.config, watched(), ReferenceKernels(), torch.float32)
    assert last


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_weights_are_in_the_dtype_asked_for(dtype: torch.dtype) -> None:
    files = random_model(CONFIG | {"attention_bias": True})
    weights = assemble(files.config, files.tensors(), ReferenceKernels(), dtype)
    expected = files.weights.tensor("model.embed_tokens.weight").to(dtype)
    assert torch.equal(weights.embedding, expected)
    assert weights.layers[1].qkv(torch.ones(1, 64, dtype=dtype)).dtype == dtype


def test_random_weights_are_made_where_they_are_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither drawn on the host and copied, nor with the host's generator."""
    asked: list[torch.device] = []
    plain = torch.randn

    def randn(*sizes: Any, generator: torch.Generator, device: torch.device) -> torch.Tensor:
        asked.append(device)
        assert generator.device == device
        return plain(*sizes, generator=generator, device=device)

    monkeypatch.setattr(torch, "randn", randn)
    files = random_model(CONFIG)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    for _, tensor in files.tensors(device):
        assert tensor.device.type == device.type
    assert set(asked) == {device}
