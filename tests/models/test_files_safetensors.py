"""Hugging Face folders, single and sharded, random models, and what is said about broken ones."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from small_files import CONFIG, write_folder, write_tokenizer

from ridgeline.models.errors import ModelError
from ridgeline.models.files import open_model, random_model
from ridgeline.text.byte_tokenizer import MINIMUM_VOCAB, ByteTokenizer


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("shards", [1, 3])
def test_tensors_are_those_written(tmp_path: Path, dtype: torch.dtype, shards: int) -> None:
    written = write_folder(tmp_path / "small", dtype=dtype, shards=shards)
    files = open_model(str(tmp_path / "small"))
    read = dict(files.tensors())
    assert list(read) == list(files.config.tensor_shapes())
    assert read.keys() == written.keys()
    for name, values in read.items():
        assert values.dtype == dtype
        assert torch.equal(values, written[name]), name
    assert files.name == "small"
    on_disk = sum(p.stat().st_size for p in (tmp_path / "small").glob("*.safetensors"))
    assert files.weights_bytes_on_disk == on_disk


def test_folder_saved_by_transformers(tmp_path: Path) -> None:
    from transformers import Qwen3Config, Qwen3ForCausalLM

    config = Qwen3Config(
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        intermediate_size=96,
        vocab_size=300,
        max_position_embeddings=512,
        tie_word_embeddings=True,
    )
    model = Qwen3ForCausalLM(config)
    model.save_pretrained(tmp_path, max_shard_size="100KB")
    write_tokenizer(tmp_path)
    assert (tmp_path / "model.safetensors.index.json").is_file()
    files = open_model(str(tmp_path))
    theirs = model.state_dict()
    for name, values in files.tensors():
        assert torch.equal(values, theirs[name]), name
    assert files.config.qk_norm
    assert files.config.tied_head


def test_tensors_without_use_are_passed_over(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tied = CONFIG | {"tie_word_embeddings": True}
    extra = {
        "lm_head.weight": torch.zeros(1),
        "model.layers.0.self_attn.rotary_emb.inv_freq": torch.zeros(1),
        "model.vision.weight": torch.zeros(1),
    }
    write_folder(tmp_path, tied, extra=extra)
    files = open_model(str(tmp_path))
    assert "lm_head.weight" not in dict(files.tensors())
    assert "1 tensors have no use here, model.vision.weight the first" in caplog.text


def test_fingerprint_follows_weights_and_configuration(tmp_path: Path) -> None:
    for name in "abcd":
        write_folder(tmp_path / name)
    tensors = dict(open_model(str(tmp_path / "a")).tensors())
    tensors["model.layers.1.mlp.up_proj.weight"][0, 0] += 1
    save_file(tensors, tmp_path / "c" / "model.safetensors")
    (tmp_path / "d" / "config.json").write_text(json.dumps(CONFIG | {"rope_theta": 5e5}))
    a, b, c, d = (open_model(str(tmp_path / n)).fingerprint for n in "abcd")
    assert a == b
    assert len({a, c, d}) == 3


def _remove(folder: Path, name: str) -> None:
    (folder / name).unlink()


def _truncate(folder: Path, name: str, kept: int) -> None:
    os.truncate(folder / name, kept)


def _configure(folder: Path, **changes: Any) -> None:
    (folder / "config.json").write_text(json.dumps(CONFIG | changes))


def _store(folder: Path, name: str, values: torch.Tensor) -> None:
    tensors = dict(random_model(CONFIG, seed=1).tensors()) | {name: values}
    save_file(tensors, folder / "model.safetensors")


WEIGHTS = "model.safetensors"
BROKEN = {
    "no configuration": (lambda f: _remove(f, "config.json"), "neither a config.json nor a GGUF"),
    "no weights": (lambda f: _remove(f, WEIGHTS), r"neither model\.safetensors nor"),
    "pickled weights": (
        lambda f: (f / WEIGHTS).rename(f / "pytorch_model.bin"),
        r"convert its pytorch_model\.bin to safetensors",
    ),
    "no tokenizer": (lambda f: _remove(f, "tokenizer.json"), r"cannot be used: it has no tokenizer\.json"),
    "empty weights": (lambda f: _truncate(f, WEIGHTS, 0), "not a safetensors file or is damaged"),
    "half a header": (lambda f: _truncate(f, WEIGHTS, 100), "not a safetensors file or is damaged"),
    "half of the data": (lambda f: _truncate(f, WEIGHTS, 60000), "is cut short: 60000 bytes of"),
    "no safetensors": (lambda f: (f / WEIGHTS).write_text("<html>" * 50), "not a safetensors file"),
    "broken json": (lambda f: (f / "config.json").write_text("{"), r"config\.json is not valid JSON"),
    "no object": (lambda f: (f / "config.json").write_text("[]"), "does not hold a JSON object"),
    "wrong shape": (
        lambda f: _configure(f, intermediate_size=128),
        r"mlp\.gate_proj\.weight in the shape \(96, 64\), its configuration asks for \(128, 64\)",
    ),
    "missing tensors": (lambda f: _configure(f, num_hidden_layers=3), "lacks the tensor model.layers.2"),
    "small vocabulary": (lambda f: _configure(f, vocab_size=200), r"\(320, 64\).* asks for \(200, 64\)"),
    "quantised": (
        lambda f: _store(f, "model.norm.weight", torch.ones(64, dtype=torch.int8)),
        r"stores model\.norm\.weight as I8; supported are F32, F16, BF16",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_folders_are_told(tmp_path: Path, case: str) -> None:
    breaks, reason = BROKEN[case]
    write_folder(tmp_path)
    breaks(tmp_path)
    with pytest.raises(ModelError, match=reason) as error:
        assert open_model(str(tmp_path)).tokenizer
    assert str(tmp_path) in str(error.value)
    assert str(error.value).endswith(".")


def test_missing_shard_is_named(tmp_path: Path) -> None:
    write_folder(tmp_path, shards=3)
    _remove(tmp_path, "model-00002-of-00003.safetensors")
    with pytest.raises(ModelError, match=r"lacks model-00002-of-00003\.safetensors"):
        open_model(str(tmp_path))


def test_index_cannot_lead_out_of_the_folder(tmp_path: Path) -> None:
    write_folder(tmp_path / "elsewhere")
    write_folder(tmp_path / "model", shards=2)
    index = {"weight_map": {"a": "../elsewhere/model.safetensors"}}
    (tmp_path / "model" / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ModelError, match=r"lacks model\.safetensors"):
        open_model(str(tmp_path / "model"))


def test_nothing_by_that_name() -> None:
    with pytest.raises(ModelError, match=r"no model 'nonesuch': .*smollm2-135m.*write hf:org/name"):
        open_model("nonesuch")


def test_random_model_is_the_same_for_the_same_seed() -> None:
    first, again, other = (random_model(CONFIG, seed=seed) for seed in (5, 5, 6))
    assert first.fingerprint == again.fingerprint != other.fingerprint
    for (name, a), (_, b), (_, c) in zip(first.tensors(), again.tensors(), other.tensors(), strict=True):
        assert torch.equal(a, b), name
        assert not torch.equal(a, c), name
        assert a.shape == first.config.tensor_shapes()[name]
    assert first.weights_bytes_on_disk == 0


@pytest.mark.parametrize("tied", [True, False])
def test_random_logits_are_spread_but_not_certain(tied: bool) -> None:
    """A normed state times the head spreads by about three: neither flat nor one token for ever."""
    files = random_model(CONFIG | {"tie_word_embeddings": tied, "vocab_size": 2000})
    head = files.weights.tensor("model.embed_tokens.weight" if tied else "lm_head.weight")
    state = torch.randn(50, 64, generator=torch.Generator().manual_seed(0))
    assert 2 < float((state @ head.T).std()) < 4


def test_random_model_from_a_file_and_a_folder(tmp_path: Path) -> None:
    (tmp_path / "tiny").mkdir()
    path = tmp_path / "tiny" / "config.json"
    path.write_text(json.dumps(CONFIG))
    by_folder, by_file = random_model(tmp_path / "tiny"), random_model(str(path))
    assert by_folder.name == by_file.name == "tiny"
    assert by_folder.fingerprint == by_file.fingerprint
    assert isinstance(by_folder.tokenizer, ByteTokenizer)
    assert by_folder.tokenizer.vocab_size == CONFIG["vocab_size"]
    other = path.rename(tmp_path / "llama-huge.json")
    assert random_model(other).name == "llama-huge"
    assert random_model(other, name="x").name == "x"


def test_random_model_takes_the_tokenizer_beside_it(tmp_path: Path) -> None:
    write_folder(tmp_path)
    files = random_model(tmp_path)
    assert files.tokenizer.vocab_size == 257
    assert files.tokenizer.decode([256]) == "<|im_end|>"


def test_random_model_too_small_for_bytes() -> None:
    with pytest.raises(ModelError, match=f"vocab_size = 100; .* needs at least {MINIMUM_VOCAB}"):
        assert random_model(CONFIG | {"vocab_size": 100}).tokenizer


def test_random_model_of_a_missing_file() -> None:
    with pytest.raises(ModelError, match=r"nonesuch\.json cannot be read: No such file"):
        random_model("nonesuch.json")
