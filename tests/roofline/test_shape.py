from dataclasses import asdict

import pytest

from ridgeline.roofline.shape import ModelShape

LLAMA_3_1_8B = ModelShape(
    layers=32, hidden=4096, heads=32, kv_heads=8, head_dim=128, ffn=14336, vocab=128256, tied_head=False
)
SMOLLM2_135M = ModelShape(
    layers=30, hidden=576, heads=9, kv_heads=3, head_dim=64, ffn=1536, vocab=49152, tied_head=True
)


def test_parameters_equal_the_published_counts():
    assert LLAMA_3_1_8B.parameters() == 8_030_261_248
    assert SMOLLM2_135M.parameters() == 134_515_008


def test_kv_bytes_per_token():
    assert LLAMA_3_1_8B.kv_bytes_per_token(2) == 131_072
    assert LLAMA_3_1_8B.kv_bytes_per_token(1) == 65_536
    assert SMOLLM2_135M.kv_bytes_per_token(2) == 23_040


def test_a_head_may_be_wider_than_hidden_over_heads():
    # Qwen3-0.6B: 16 heads of 128 on a width of 1,024; tied head.
    shape = ModelShape(28, 1024, 16, 8, 128, 3072, 151_936, True)
    assert shape.parameters() == pytest.approx(596e6, rel=0.001)
    assert shape.kv_bytes_per_token(2) == 114_688


@pytest.mark.parametrize(("field", "value"), [("layers", 0), ("vocab", -1), ("kv_heads", 5)])
def test_impossible_sizes_are_refused_by_name(field, value):
    sizes = asdict(SMOLLM2_135M)
    sizes[field] = value
    with pytest.raises(ValueError, match=field):
        ModelShape(**sizes)
