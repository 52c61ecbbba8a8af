"""Compare rounding to bf16, f16 and 8-bit blocks with torch and gguf, bit for bit."""

import numpy as np
import pytest

from microgpt_trace.arrays.rounding import BLOCK, to_bf16, to_f16, to_q8
from microgpt_trace.rounding.precision import PRECISIONS

SPECIAL = np.array(
    [0.0, -0.0, np.inf, -np.inf, 1.0, -1.0, 65504, 65520, 3.3895314e38, 3.4e38, 1e-40, -1e-45, 6e-8, 5.9e-8],
    np.float32,
)


def float32_values(count=50_000, seed=3):
    """Return float32 numbers of random bits, infinite and subnormal ones, and ties of both formats, but no
    NaN."""
    rng = np.random.default_rng(seed)
    bits = rng.integers(0, 2**32, count, dtype=np.uint32)
    ties = bits & np.uint32(0xFFFF0000) | np.uint32(0x8000)
    halves = rng.integers(0, 2**16, count // 4).astype(np.uint16).view(np.float16).astype(np.float32)
    with np.errstate(all="ignore"):
        halfway = halves * np.float32(1 + 2**-11)
    values = np.concatenate([bits.view(np.float32), ties.view(np.float32), halves, halfway, SPECIAL])
    return values[~np.isnan(values)]


@pytest.mark.parametrize(("ours", "dtype"), [(to_bf16, "bfloat16"), (to_f16, "float16")])
def test_rounds_as_torch_bit_for_bit(ours, dtype):
    torch = pytest.importorskip("torch")
    x = float32_values()
    rounded = ours(x).view(np.uint32)
    expected = torch.from_numpy(x.copy()).to(getattr(torch, dtype)).float().numpy().view(np.uint32)
    different = np.flatnonzero(rounded != expected)
    print(f"{len(x):,} values, {len(different)} different", x[different][:4], ours(x)[different][:4])
    assert len(x) > 100_000
    assert not len(different)


@pytest.mark.parametrize("compute", PRECISIONS.values(), ids=PRECISIONS)
def test_rounding_keeps_nan_shape_and_dtype(compute):
    x = np.ones((2, 3, 40), np.float32)
    x[1, 2, 3] = np.nan
    rounded = compute.round(x)
    assert (rounded.shape, rounded.dtype) == (x.shape, np.float32)
    assert np.isnan(rounded[1, 2, 3])
    assert np.isfinite(rounded[0]).all()


def test_rounding_keeps_every_kind_of_nan():
    x = np.array([0x7F800001, 0xFF800001, 0x7FFFFFFF, 0xFFFFFFFF, 0x7FC00000], np.uint32).view(np.float32)
    assert np.isnan([to_bf16(x), to_f16(x)]).all()


@pytest.mark.parametrize("name", ["bf16", "f16"])
def test_rounds_views_and_scalars_with_errors_up_to_the_unit(name):
    compute, x = PRECISIONS[name], np.linspace(1, 4, 100_000, dtype=np.float32).reshape(-1, 4)
    rounded = compute.round(x)
    np.testing.assert_array_equal(compute.round(x.T), rounded.T)
    assert compute.round(x[1, 2].reshape(())) == rounded[1, 2]
    np.testing.assert_array_equal(compute.round(rounded), rounded)
    largest = (np.abs(rounded - x) / x).max()
    print(largest, compute.unit)
    assert 0.9 * compute.unit < 2 * largest <= 2 * compute.unit


def test_q8_agrees_with_q8_0_of_gguf_except_for_its_float16_scale():
    quants = pytest.importorskip("gguf.quants")
    from gguf import GGMLQuantizationType

    x = np.random.default_rng(5).standard_normal((64, 256)).astype(np.float32)
    theirs = quants.dequantize(quants.quantize(x, GGMLQuantizationType.Q8_0), GGMLQuantizationType.Q8_0)
    ours, step = to_q8(x), np.abs(x.reshape(-1, BLOCK)).max(axis=1).repeat(BLOCK).reshape(x.shape) / 127
    print(f"off by {np.abs(ours - x).max()}, theirs by {np.abs(theirs - x).max()}")
    assert (np.abs(ours - theirs) <= 2**-11 * np.abs(theirs) + 1e-7).all()
    assert (np.abs(ours - x) <= step / 2 * 1.0001).all()


def test_q8_rounds_a_short_last_block_zeros_and_infinity():
    x = np.random.default_rng(5).standard_normal((3, 40)).astype(np.float32)
    rounded = to_q8(x)
    np.testing.assert_array_equal(rounded[:, :32], to_q8(x[:, :32].copy()))
    np.testing.assert_array_equal(rounded[:, 32:], to_q8(x[:, 32:].copy()))
    x[1, :32], x[2, 36] = 0, np.inf
    with np.errstate(invalid="ignore"):  # as the callers of to_q8 do
        rounded = to_q8(x)
    assert not rounded[1, :32].any()
    assert not np.isfinite(rounded[2, 36])
