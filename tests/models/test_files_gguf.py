"""GGUF files: every quantisation, the order of rows, metadata, and what is said about broken ones."""

import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as Kind
from small_files import CONFIG, write_gguf

from ridgeline.models.config import RopeScaling
from ridgeline.models.dequantise import dequantise
from ridgeline.models.errors import ModelError
from ridgeline.models.files import ModelFiles, open_model
from ridgeline.models.gguf_files import GgufWeights
from ridgeline.models.gguf_header import GgufFile

WRITABLE = [Kind.F32, Kind.F16, Kind.BF16, Kind.Q4_0, Kind.Q4_1, Kind.Q5_0, Kind.Q5_1, Kind.Q8_0]
QWEN3 = CONFIG | {"model_type": "qwen3", "head_dim": 32}
QWEN2 = CONFIG | {"model_type": "qwen2", "tie_word_embeddings": True}


def _dequantised(values: torch.Tensor, kind: Kind) -> torch.Tensor:
    if values.ndim == 1:
        return values
    array = values.numpy()
    return torch.from_numpy(gguf.quants.dequantize(gguf.quants.quantize(array, kind), kind))


@pytest.mark.parametrize("kind", WRITABLE, ids=lambda kind: kind.name)
@pytest.mark.parametrize("config", [CONFIG, QWEN2, QWEN3], ids=["llama", "qwen2", "qwen3"])
def test_tensors_are_those_written(tmp_path: Path, config: dict[str, Any], kind: Kind) -> None:
    # A row's blocks move with the row, so quantising before or after the reordering is the same.
    written = write_gguf(tmp_path / "m.gguf", config, kind)
    files = open_model(str(tmp_path / "m.gguf"))
    read = dict(files.tensors())
    assert read.keys() == written.keys()
    for name, values in read.items():
        assert values.dtype == torch.float32
        assert torch.equal(values, _dequantised(written[name], kind)), name


@pytest.mark.parametrize("kind", [k for k in Kind if k in gguf.quants._type_traits], ids=lambda k: k.name)
def test_every_format_is_dequantised_as_by_gguf(kind: Kind) -> None:
    """Random bytes are valid blocks of every format; some scales are then not finite, as they should be."""
    block, block_bytes = gguf.GGML_QUANT_SIZES[kind]
    rows, blocks = 3, 512 // block
    raw = np.random.default_rng(0).integers(0, 256, (rows, blocks * block_bytes), dtype=np.uint8)
    with np.errstate(all="ignore"):
        expected = gguf.quants.dequantize(raw, kind).astype(np.float32)
        found = dequantise(raw, kind, "a file").reshape(expected.shape)
    np.testing.assert_array_equal(found, expected)


def test_format_that_cannot_be_dequantised_is_named() -> None:
    with pytest.raises(ModelError, match=r"a file stores tensors as I32.*another quantisation"):
        dequantise(np.zeros((1, 4), np.uint8), Kind.I32, "a file")


def test_raw_blocks_are_reachable_in_canonical_order(tmp_path: Path) -> None:
    write_gguf(tmp_path / "m.gguf", kind=Kind.Q4_1)
    files = open_model(str(tmp_path / "m.gguf"))
    weights = files.weights
    assert isinstance(weights, GgufWeights)
    for name, values in files.tensors():
        if values.ndim == 1:
            continue
        kind, raw = weights.raw(name)
        ordered = gguf.quants.dequantize(raw[weights.row_order(name)], Kind[kind])
        np.testing.assert_array_equal(ordered, values.numpy())
    assert (kind, raw.shape, raw.flags.writeable) == ("Q4_1", (320, 40), False)


def test_header_equals_that_of_the_gguf_package(tmp_path: Path, smollm2_path: Path) -> None:
    write_gguf(tmp_path / "m.gguf", QWEN3, Kind.Q8_0)
    for path in (tmp_path / "m.gguf", smollm2_path):
        ours, theirs = GgufFile(path), gguf.GGUFReader(path)
        own_fields = {k: f for k, f in theirs.fields.items() if not k.startswith("GGUF.")}
        assert ours.metadata.keys() == own_fields.keys()
        for key, field in own_fields.items():
            if len(field.data) < 1000:  # reading long ones takes the package seconds
                assert ours.metadata[key] == field.contents(), key
        assert [t.name for t in theirs.tensors] == list(ours.tensors)
        for tensor in theirs.tensors:
            found = ours.tensors[tensor.name]
            assert (found.offset, found.n_bytes) == (tensor.data_offset, tensor.n_bytes)
            assert found.shape == tuple(int(n) for n in tensor.shape)[::-1]


def test_configuration_is_read(tmp_path: Path) -> None:
    write_gguf(tmp_path / "m.gguf", QWEN3)
    config = open_model(str(tmp_path / "m.gguf")).config
    assert (config.architecture, config.hidden, config.layers, config.heads, config.kv_heads) == (
        *("qwen3", 64, 2, 4, 2),
    )
    assert (config.head_dim, config.ffn, config.vocab, config.max_context) == (32, 96, 320, 256)
    assert (config.qk_norm, config.tied_head, config.attention_bias, config.output_bias) == (
        *(True, False, False, False),
    )
    assert config.rms_norm_eps == pytest.approx(1e-5)
    write_gguf(tmp_path / "n.gguf", QWEN2)
    config = open_model(str(tmp_path / "n.gguf")).config
    assert (config.qk_norm, config.tied_head, config.attention_bias, config.output_bias) == (
        *(False, True, True, False),
    )


def test_biases_of_llama_are_reordered_too(tmp_path: Path) -> None:
    config = CONFIG | {"attention_bias": True, "mlp_bias": True}
    written = write_gguf(tmp_path / "m.gguf", config)
    files = open_model(str(tmp_path / "m.gguf"))
    assert (files.config.attention_bias, files.config.output_bias, files.config.mlp_bias) == (True,) * 3
    assert all(torch.equal(values, written[name]) for name, values in files.tensors())


def test_rope_factors_of_llama_3(tmp_path: Path) -> None:
    factors = np.linspace(1, 8, 8, dtype=np.float32)
    write_gguf(tmp_path / "m.gguf", change=lambda tensors: tensors.update({"rope_freqs.weight": factors}))
    config = open_model(str(tmp_path / "m.gguf")).config
    assert config.rope_scaling == RopeScaling("factors", factors=tuple(factors.tolist()))
    plain = replace(config, rope_scaling=None).rope_inverse_frequencies()
    assert config.rope_inverse_frequencies() == pytest.approx(np.array(plain) / factors)


def test_linear_rope_scaling(tmp_path: Path) -> None:
    def scale(writer: gguf.GGUFWriter) -> None:
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(2.0)

    write_gguf(tmp_path / "m.gguf", metadata=scale)
    assert open_model(str(tmp_path / "m.gguf")).config.rope_scaling == RopeScaling("linear", factor=2.0)


def test_fingerprint_follows_the_weights(tmp_path: Path) -> None:
    def other(tensors: dict[str, np.ndarray]) -> None:
        tensors["blk.1.ffn_up.weight"][0, 0] += 1

    write_gguf(tmp_path / "a.gguf")
    write_gguf(tmp_path / "b.gguf")
    write_gguf(tmp_path / "c.gguf", change=other)
    a, b, c = (open_model(str(tmp_path / f"{n}.gguf")).fingerprint for n in "abc")
    assert a == b != c


def test_name_is_the_file_or_what_was_asked(tmp_path: Path) -> None:
    write_gguf(tmp_path / "my-model.gguf")
    files = open_model(str(tmp_path / "my-model.gguf"))
    assert files.name == "my-model"
    assert files.weights_bytes_on_disk == (tmp_path / "my-model.gguf").stat().st_size
    assert open_model(str(tmp_path), name="x").name == "x"


def test_folder_with_several_files_asks_which(tmp_path: Path) -> None:
    write_gguf(tmp_path / "a.gguf")
    write_gguf(tmp_path / "b.gguf")
    with pytest.raises(ModelError, match=r"2 GGUF files; give the path of one, a\.gguf say"):
        open_model(str(tmp_path))


Change = Callable[[dict[str, np.ndarray]], None]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (
            lambda t: t.pop("blk.1.attn_v.weight"),
            r"lacks the tensor model\.layers\.1\.self_attn\.v_proj\.weight;",
        ),
        (lambda t: [t.pop(n) for n in list(t) if "ffn_up" in n], "mlp.up_proj.weight and 1 more"),
        (lambda t: t.update({"blk.0.ssm_a.weight": np.ones((4, 32), np.float32)}), "'blk.0.ssm_a.weight'"),
        (
            lambda t: t.update({"output_norm.weight": np.ones(32, np.float32)}),
            r"model\.norm\.weight in the shape \(32,\), its configuration asks for \(64,\)",
        ),
        (
            lambda t: t.update({"token_embd.weight": np.ones((300, 64), np.float32)}),
            r"embed_tokens\.weight in the shape \(300, 64\), its configuration asks for \(320, 64\)",
        ),
    ],
    ids=["missing", "several missing", "unknown", "shape", "vocabulary"],
)
def test_wrong_tensors_are_named(tmp_path: Path, change: Change, reason: str) -> None:
    path = tmp_path / "m.gguf"
    write_gguf(path, change=change)
    with pytest.raises(ModelError, match=reason) as error:
        open_model(str(path))
    assert str(path) in str(error.value)


@pytest.mark.parametrize(
    ("metadata", "reason"),
    [
        (lambda w: w.add_rope_scaling_type(gguf.RopeScalingType.YARN), "rope scaling 'yarn'"),
        (lambda w: w.add_expert_count(8), "mixture of experts"),
        (lambda w: w.add_rope_dimension_count(8), r"rope\.dimension_count = 8; only the head width \(16\)"),
        (lambda w: w.add_uint16("split.count", 3), "one of 3 parts; join them"),
    ],
    ids=["yarn", "experts", "partial rope", "split"],
)
def test_unsupported_metadata_are_named(
    tmp_path: Path, metadata: Callable[[gguf.GGUFWriter], None], reason: str
) -> None:
    write_gguf(tmp_path / "m.gguf", metadata=metadata)
    with pytest.raises(ModelError, match=reason):
        open_model(str(tmp_path / "m.gguf"))


def test_unsupported_architecture_is_named(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(str(tmp_path / "m.gguf"), "mamba")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    with pytest.raises(ModelError, match="architecture 'mamba'; Ridgeline runs llama, mistral, qwen2, qwen3"):
        open_model(str(tmp_path / "m.gguf"))


def test_missing_tokenizer_is_told(tmp_path: Path) -> None:
    write_gguf(tmp_path / "m.gguf")
    files = GgufFile(tmp_path / "m.gguf")
    # The same file with the key renamed: there is no tokenizer in it any more.
    data = (tmp_path / "m.gguf").read_bytes().replace(b"tokenizer.ggml.model", b"tokenizer.ggml.xxxxx")
    (tmp_path / "m.gguf").write_bytes(data)
    assert "tokenizer.ggml.model" in files.metadata
    opened = open_model(str(tmp_path / "m.gguf"))  # as the engines' process does, which needs none
    with pytest.raises(ModelError, match=r"m\.gguf cannot be used: it holds no tokenizer"):
        assert opened.tokenizer


def test_tokenizer_larger_than_the_table_is_told(tmp_path: Path) -> None:
    write_gguf(
        tmp_path / "m.gguf",
        metadata=lambda w: w.add_vocab_size(64),
        change=lambda t: [t.update({n: t[n][:64]}) for n in ("token_embd.weight", "output.weight")],
    )
    with pytest.raises(ModelError, match="320 tokens in its tokenizer but 64 rows"):
        assert open_model(str(tmp_path / "m.gguf")).tokenizer


@pytest.mark.parametrize("kept", [5, 30, 500, 3000, -1000])
def test_truncated_files_are_told(tmp_path: Path, kept: int) -> None:
    write_gguf(tmp_path / "m.gguf")
    data = (tmp_path / "m.gguf").read_bytes()
    (tmp_path / "m.gguf").write_bytes(data[:kept])
    with pytest.raises(ModelError, match="is cut short"):
        open_model(str(tmp_path / "m.gguf"))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "not a GGUF file"),
        (b"PK\x03\x04 something else", "not a GGUF file"),
        (b"GGUF" + struct.pack("<IQQ", 1, 0, 0), "version 1; versions 2 and 3"),
        (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "version 50331648"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 2**60), "cut short or damaged"),
        (b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 2**63), "cut short or damaged"),
    ],
    ids=["empty", "zip", "version 1", "big endian", "many keys", "long key"],
)
def test_files_that_are_no_gguf(tmp_path: Path, data: bytes, reason: str) -> None:
    (tmp_path / "m.gguf").write_bytes(data)
    with pytest.raises(ModelError, match=reason):
        open_model(str(tmp_path / "m.gguf"))


def test_random_damage_is_one_sentence_or_harmless(tmp_path: Path) -> None:
    """No byte of the header can be changed so that anything but a `ModelError` comes out."""
    path = tmp_path / "m.gguf"
    write_gguf(path)
    good = bytearray(path.read_bytes())
    header = GgufFile(path).header_bytes
    random = np.random.default_rng(3)
    outcomes = set()
    for _ in range(300):
        bad = bytearray(good)
        bad[int(random.integers(4, header))] = int(random.integers(0, 256))
        path.write_bytes(bad)
        try:
            outcomes.add(type(open_model(str(path))))
        except ModelError as error:
            outcomes.add(ModelError)
            assert str(error).endswith(".")
    assert outcomes == {ModelFiles, ModelError}


@pytest.mark.slow
def test_default_model_equals_transformers_reading_of_it(smollm2_path: Path) -> None:
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

    config = AutoConfig.from_pretrained(str(smollm2_path.parent), gguf_file=smollm2_path.name)
    with torch.device("meta"):
        empty = AutoModelForCausalLM.from_config(config)
    loaded = load_gguf_checkpoint(str(smollm2_path), return_tensors=True, model_to_load=empty)
    theirs = {name: torch.as_tensor(values) for name, values in loaded["tensors"].items()}
    for name, values in open_model("smollm2-135m").tensors():
        assert torch.equal(values, theirs[name]), name
