"""Models of all kinds of files, read into packed blocks."""

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt
import pytest
import small_files
import torch
from small_models import StateDict

from ridgeline.kernels.jit.blocks import from_floats
from ridgeline.kernels.jit.packing import PackedMatrix, unpack
from ridgeline.kernels.jit.products import FORM_4, FORM_4_MINIMUM, FORM_8
from ridgeline.models import block_weights
from ridgeline.models.block_weights import BlockWeights, load_blocks, misfit
from ridgeline.models.errors import ModelError
from ridgeline.models.files import ModelFiles, open_model, random_model

Floats = npt.NDArray[np.float32]
Kind = gguf.GGMLQuantizationType

CONFIG: dict[str, Any] = small_files.CONFIG | {
    "num_attention_heads": 3,
    "num_key_value_heads": 1,
    "head_dim": 32,
}
FORMS = {"Q4_0": FORM_4, "Q4_1": FORM_4_MINIMUM, "Q8_0": FORM_8}
PARTS = {
    "qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "output": ("self_attn.o_proj",),
    "gate_up": ("mlp.gate_proj", "mlp.up_proj"),
    "down": ("mlp.down_proj",),
}


def tensor(files: ModelFiles, name: str) -> Floats:
    return files.weights.tensor(name).float().numpy()


def expected_rows(files: ModelFiles, prefix: str, product: str, kind: str) -> Floats:
    """A product's rows in their order: as they were, or else in 8 bits; `kind` is weight or bias."""
    parts = [tensor(files, f"{prefix}{part}.{kind}") for part in PARTS[product]]
    if product != "gate_up":
        return np.concatenate(parts)
    return np.concatenate([rows[i : i + 32] for i in range(0, files.config.ffn, 32) for rows in parts])


def floats(packed: PackedMatrix) -> Floats:
    return unpack(packed).to_floats()


def check(files: ModelFiles, found: BlockWeights, form: int, exact: bool) -> None:
    """All of a model against its tensors."""

    def same(packed: PackedMatrix, rows: Floats) -> None:
        assert packed.form == form
        assert packed.address % 64 == 0
        assert np.array_equal(floats(packed), rows if exact else from_floats(rows, 8).to_floats())

    config = files.config
    same(found.embedding, tensor(files, "model.embed_tokens.weight"))
    if config.tied_head:
        assert found.head is found.embedding
    else:
        same(found.head, tensor(files, "lm_head.weight"))
    assert np.array_equal(found.norm, tensor(files, "model.norm.weight"))
    assert len(found.layers) == config.layers
    for index, layer in enumerate(found.layers):
        prefix = f"model.layers.{index}."
        assert np.array_equal(layer.input_norm, tensor(files, f"{prefix}input_layernorm.weight"))
        assert np.array_equal(layer.post_norm, tensor(files, f"{prefix}post_attention_layernorm.weight"))
        assert (layer.head_norms is not None) == config.qk_norm
        if layer.head_norms is not None:
            norms = [tensor(files, f"{prefix}self_attn.{x}_norm.weight") for x in "qk"]
            assert np.array_equal(layer.head_norms, norms)
        for product in PARTS:
            same(getattr(layer, product), expected_rows(files, prefix, product, "weight"))


@pytest.mark.parametrize("kind", FORMS)
@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_blocks_of_a_gguf_file_are_taken_as_they_are(tmp_path: Path, kind: str, family: str) -> None:
    # Of the Llama family, files have the rows of q and k in another order.
    path = tmp_path / "small.gguf"
    small_files.write_gguf(path, CONFIG | {"model_type": family}, Kind[kind])
    files = open_model(str(path))
    check(files, load_blocks(files), FORMS[kind], exact=True)


@pytest.mark.parametrize("kind", ["F32", "F16", "BF16", "Q5_0"])
@pytest.mark.parametrize("rows_at_once", [1 << 20, 64 * 7])
def test_what_else_a_gguf_file_holds_becomes_8_bits(
    tmp_path: Path, kind: str, rows_at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(block_weights, "_FLOATS_AT_ONCE", rows_at_once)
    path = tmp_path / "small.gguf"
    small_files.write_gguf(path, CONFIG, Kind[kind])
    files = open_model(str(path))
    check(files, load_blocks(files), FORM_8, exact=False)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_folder_becomes_8_bits(tmp_path: Path, dtype: torch.dtype) -> None:
    small_files.write_folder(tmp_path, CONFIG | {"tie_word_embeddings": True}, dtype)
    files = open_model(str(tmp_path))
    check(files, load_blocks(files), FORM_8, exact=False)


@pytest.mark.parametrize(
    "changes",
    [
        {"attention_bias": True, "mlp_bias": True},
        {"model_type": "qwen2", "tie_word_embeddings": True},
        {"model_type": "qwen3", "intermediate_size": 32, "vocab_size": 333},
    ],
)
def test_families_differ_in_biases_and_norms(changes: dict[str, Any]) -> None:
    files = random_model(CONFIG | changes, seed=3)
    found = load_blocks(files, threads=3)
    check(files, found, FORM_8, exact=False)
    shapes = files.config.tensor_shapes()
    for index, layer in enumerate(found.layers):
        prefix = f"model.layers.{index}."
        for product in PARTS:
            bias, matrix = getattr(layer, f"{product}_bias"), getattr(layer, product)
            if f"{prefix}{PARTS[product][0]}.bias" not in shapes:
                assert bias is None
                continue
            assert bias.shape == (matrix.padded_rows,)
            assert np.array_equal(bias[: matrix.rows], expected_rows(files, prefix, product, "bias"))
            assert not bias[matrix.rows :].any()
    assert floats(found.embedding).shape == (files.config.vocab, 64)


def test_a_product_of_unlike_parts_becomes_8_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files have v, say, in more bits than q and k; of those in 8 bits nothing is lost."""
    plain = gguf.GGUFWriter.add_tensor

    def mixed(writer: gguf.GGUFWriter, name: str, array: Any, raw_dtype: Any = None) -> None:
        if name.endswith("attn_v.weight"):
            array = gguf.quants.quantize(gguf.quants.dequantize(array, raw_dtype), Kind.Q8_0)
            raw_dtype = Kind.Q8_0
        plain(writer, name, array, raw_dtype=raw_dtype)

    monkeypatch.setattr(gguf.GGUFWriter, "add_tensor", mixed)
    small_files.write_gguf(tmp_path / "mixed.gguf", CONFIG, Kind.Q4_1)
    files = open_model(str(tmp_path / "mixed.gguf"))
    found = load_blocks(files)
    for index, layer in enumerate(found.layers):
        assert (layer.qkv.form, layer.output.form) == (FORM_8, FORM_4_MINIMUM)
        query, key, value = np.split(floats(layer.qkv), [96, 128])
        names = [f"model.layers.{index}.self_attn.{x}_proj.weight" for x in "qkv"]
        for rows, name in ((query, names[0]), (key, names[1])):
            assert np.array_equal(rows, from_floats(tensor(files, name), 8).to_floats())
        assert np.array_equal(value, tensor(files, names[2]))


def test_matrices_lie_in_one_piece_in_the_order_of_use() -> None:
    found = load_blocks(random_model(CONFIG))
    matrices = [found.embedding]
    for layer in found.layers:
        matrices += [layer.qkv, layer.output, layer.gate_up, layer.down]
    matrices.append(found.head)
    for matrix, following in itertools.pairwise(matrices):
        assert matrix.address + matrix.data.nbytes == following.address


def test_rows_are_rounded_a_few_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []
    plain = block_weights.pack_floats

    def noting(rows: Floats, *rest: Any) -> None:
        sizes.append(rows.size)
        plain(rows, *rest)

    monkeypatch.setattr(block_weights, "pack_floats", noting)
    monkeypatch.setattr(block_weights, "_FLOATS_AT_ONCE", 1000)
    load_blocks(random_model(CONFIG))
    assert max(sizes) <= 1000
    assert sum(sizes) == sum(
        np.prod(shape) for shape in random_model(CONFIG).config.tensor_shapes().values() if len(shape) == 2
    )


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 1e9])
def test_weights_beyond_blocks_are_named(bad: float) -> None:
    files = random_model(CONFIG, name="broken")
    tensors = dict(files.tensors())
    name = "model.layers.1.mlp.up_proj.weight"
    tensors[name][5, 6] = bad
    files.weights = StateDict(tensors)
    message = (
        f"broken cannot be computed .* in {name}, weights are not finite, or too large .*--dtype float32"
    )
    with pytest.raises(ModelError, match=message):
        load_blocks(files)


def test_models_that_do_not_fit_are_told_apart() -> None:
    config = random_model(CONFIG).config
    assert misfit(config) is None
    for changes, reason in (
        ({"hidden": 48}, "its hidden size, 48, is no multiple of 32"),
        ({"ffn": 100}, "its feed-forward size, 100, is no multiple of 32"),
        ({"head_dim": 80}, "its head size, 80, is no multiple of 32"),
        ({"head_dim": 288}, "its head size, 288, is over 256"),
    ):
        assert misfit(replace(config, **changes)) == reason  # type: ignore[arg-type]
