"""Layouts: a tensor stored in any layout is read correctly, or rejected if its shape has two readings."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.tiny_models import pair_neighbours

from microgpt_trace.dumps.layouts import OWN, Recorded, fit, fits
from microgpt_trace.errors import InputError

fast = settings(derandomize=True)
lengths = st.integers(1, 4)
Q, SCORES, UP = "layer0.attn.q", "layer0.attn.scores", "layer0.mlp.up"
SHAPES = {
    Q: (9, 64), "layer0.attn.k": (9, 32), "layer0.attn.v": (9, 32), UP: (9, 48), SCORES: (4, 9, 9),
    "embed.tok": (9, 9), "logits": (9, 61), "probs": (9, 61), "loss": (),
}  # fmt: skip
QKV = (Q, "layer0.attn.k", "layer0.attn.v")


def record(array, layout="", **more):
    array = np.asarray(array, more.pop("dtype", np.float32))
    return Recorded("dump.npy", array.shape, lambda: array, layout, **more)


def numbers(*shape):
    return np.arange(np.prod(shape, dtype=int), dtype=np.float32).reshape(shape)


def refusal(name, recorded, shapes=SHAPES, **options):
    with pytest.raises(InputError) as caught:
        fit(name, recorded, shapes, **options)
    print(caught.value)
    return str(caught.value)


def heads_first(a, dim):
    return a.reshape(len(a), -1, dim).swapaxes(0, 1)


def row_stores(a, dims):
    """Yield every layout of [T, H*D]: (letters, stored)."""
    yield "TC", a
    yield "CT", a.T
    yield "TC", a.ravel()
    for dim in dims:
        yield "HTD", heads_first(a, dim)
        yield "THD", a.reshape(len(a), -1, dim)


def square_stores(a):
    """Yield every layout of [H, T, S]: (letters, stored)."""
    yield "HTS", a
    yield "THS", a.swapaxes(0, 1)
    yield "HTS", a.ravel()


def count_readings(stored, stores):
    """Count the different arrangements of the elements with this shape, ignoring axes of length 1."""
    shape = [n for n in stored.shape if n != 1]
    same = [other.ravel().tolist() for _, other in stores if [n for n in other.shape if n != 1] == shape]
    return len({tuple(order) for order in same})


def check_reading(name, a, stored, stores, **options):
    """Check that `fit` returns the array, or rejects the shape if and only if it has two readings."""
    recorded = record(stored)
    letters = fits(name, recorded, {name: a.shape}, options.get("head_dim"))
    assert len(letters) == count_readings(stored, stores), (stored.shape, letters)
    if len(letters) > 1:
        message = refusal(name, recorded, {name: a.shape}, **options)
        assert f"--layout {name}=LETTERS" in message
        assert all(f"({one})" in message for one in letters)
        return
    fitted = fit(name, recorded, {name: a.shape}, **options)
    assert (fitted.array.tolist(), fitted.positions) == (a.tolist(), None)


@fast
@given(lengths, lengths, lengths, st.integers(0, 2), st.booleans(), st.data())
def test_reads_values_in_any_layout(length, heads, dim, ones, known, data):
    rows, square = numbers(length, heads * dim), numbers(heads, length, length)
    dims = [dim] if known else [d for d in range(1, heads * dim + 1) if heads * dim % d == 0]
    name, a, stores = data.draw(
        st.sampled_from(
            [
                (Q, rows, [*row_stores(rows, dims)]),
                (UP, rows, [*row_stores(rows, ())]),
                (SCORES, square, [*square_stores(square)]),
            ]
        )
    )
    letters, stored = data.draw(st.sampled_from(stores))
    stored = stored.reshape((1,) * ones + stored.shape)
    check_reading(name, a, stored, stores, head_dim=dim if known else None)
    if known:
        stored = stored.ravel() if data.draw(st.booleans()) else stored
        decided = fit(name, record(stored, letters), {name: a.shape}, head_dim=dim)
        assert decided.array.tolist() == a.tolist()


@fast
@given(st.integers(2, 5), lengths, lengths, st.integers(0, 2), st.sampled_from(["", "last"]), st.data())
def test_reads_a_single_last_row(length, heads, dim, ones, layout, data):
    rows, square = numbers(length, heads * dim)[-1:], numbers(heads, length, length)[:, -1:]
    of_rows = [(Q, rows, stored) for stored in (rows, rows[0], rows.reshape(heads, 1, dim))]
    of_squares = [(SCORES, square, stored) for stored in (square, square.ravel())]
    name, a, stored = data.draw(st.sampled_from([*of_rows, (UP, rows, rows), *of_squares]))
    shape = (heads, length, length) if name == SCORES else (length, heads * dim)
    recorded = record(stored.reshape((1,) * ones + stored.shape), layout)
    fitted = fit(name, recorded, {name: shape}, head_dim=dim)
    assert (fitted.array.tolist(), fitted.positions) == (a.tolist(), (length - 1,))
    assert "the last row" in fitted.note


# --- Notes and refusals ----------------------------------------------------------------------


NOTES = {  # by the shape of the array
    (9, 64): "",
    (9, 1, 64): "[9, 1, 64] read as [T, C]",
    (64, 9): "[64, 9] read as [C, T]",
    (1, 4, 9, 16): "[1, 4, 9, 16] read as [H, T, D]",
    (9, 4, 16): "[9, 4, 16] read as [T, H, D]",
    (576,): "[576] read as [T, C] = [9, 64]",
    (64,): "[64] read as the last row",
}


def test_notes_how_an_array_was_read():
    assert {shape: fit(Q, record(numbers(*shape)), SHAPES, head_dim=16).note for shape in NOTES} == NOTES


def test_rejects_a_square_with_the_choices_unless_a_layout_is_given():
    assert refusal("embed.tok", record(numbers(9, 9))) == (
        "dump.npy: [9, 9] can be embed.tok as [T, C] (TC) or [C, T] (CT); choose one with "
        "--layout embed.tok=LETTERS, or with layout in a map"
    )
    fitted = fit("embed.tok", record(numbers(9, 9), "CT"), SHAPES)
    assert fitted.note == "[9, 9] read as [C, T]"
    assert fitted.array.tolist() == numbers(9, 9).T.tolist()


def test_rejects_another_width_of_a_head_without_reading_values():
    def read():
        raise AssertionError("read")

    stored = Recorded("dump.npy", (8, 9, 8), read)
    assert fits(Q, stored, SHAPES, 16) == []
    assert refusal(Q, stored, head_dim=16) == (
        f"dump.npy: {Q}: expected [T, C] [9, 64], [C, T] [64, 9], [H, T, D] [4, 9, 16], "
        "[T, H, D] [9, 4, 16], the last row [1, 64], found [8, 9, 8]"
    )
    assert fits(Q, stored, SHAPES) == ["HTD"]  # if the width is unknown
    assert fits(UP, record(np.zeros((4, 9, 12))), SHAPES) == []  # since it has no heads
    for shape in ((9, 63), (576,), (1, 576)):
        message = refusal(Q, record(np.zeros(shape), "HTD"))
        assert message.endswith(f"expected HTD of [9, 64], found {list(shape)}")


@pytest.mark.parametrize("shape", [(8, 64), (9, 65), (2, 9, 64), (0,), (), (577,), (0, 9, 64)])
def test_rejects_a_shape_that_fits_no_layout(shape):
    assert fits(Q, record(np.zeros(shape)), SHAPES, 16) == []
    message = refusal(Q, record(np.zeros(shape)), head_dim=16)
    assert message.startswith(f"dump.npy: {Q}: expected [T, C] ")
    assert message.endswith(f"found {list(shape)}")


@pytest.mark.parametrize(
    ("name", "layout", "message"),
    [
        (Q, "HTS", f"layout of {Q}: expected TC, CT, HTD, THD, last, found 'HTS'"),
        (UP, "HTD", f"layout of {UP}: expected TC, CT, last, found 'HTD'"),
        (SCORES, "TC", f"layout of {SCORES}: expected HTS, THS, last, found 'TC'"),
        (SCORES, "SHT", f"layout of {SCORES}: expected HTS, THS, last, found 'SHT'"),
        ("loss", "TC", "layout of loss: expected no layout for a single number, found 'TC'"),
        (Q, "CT", "layer0.attn.q: expected [C, T] [64, 9], found [9, 64]"),
        (Q, "last", "layer0.attn.q: expected the last row [1, 64], found [9, 64]"),
        ("lm_head", "", "this model has no event 'lm_head'"),
    ],
)
def test_rejects_letters_that_do_not_fit(name, layout, message):
    assert message in refusal(name, record(np.zeros((9, 64)), layout))


@pytest.mark.parametrize("layout", ["", OWN])
def test_reads_a_single_number(layout):
    for shape in [(), (1,), (1, 1)]:
        fitted = fit("loss", record(np.full(shape, 2.5), layout), SHAPES)
        assert (fitted.array.shape, float(fitted.array), fitted.note) == ((), 2.5, "")


def test_keeps_the_axis_of_a_single_position():
    shapes = {UP: (1, 48), SCORES: (4, 1, 1)}
    for name, stored in ((UP, (48,)), (UP, (48, 1)), (SCORES, (4,)), (SCORES, (1, 4, 1, 1))):
        fitted = fit(name, record(np.zeros(stored)), shapes)
        assert (fitted.array.shape, fitted.positions) == (shapes[name], None)
    assert fit(UP, record(np.zeros(48), "last"), shapes).positions is None


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_keeps_bits_and_dtype(dtype):
    a = np.array([[np.nan, -0.0, 1e-45], [np.inf, -np.inf, 0.1]], dtype)
    fitted = fit(UP, record(a.T, dtype=dtype), {UP: (2, 3)})
    assert (fitted.array.dtype, fitted.array.tobytes()) == (dtype, a.tobytes())


# --- Our own order ---------------------------------------------------------------------------


def test_our_own_order_must_have_the_exact_shape():
    assert fit(Q, record(numbers(9, 64), OWN), SHAPES).note == ""
    assert fit("embed.tok", record(numbers(9, 9), OWN), SHAPES).array.tolist() == numbers(9, 9).tolist()
    message = refusal(Q, record(numbers(1, 9, 64), OWN))
    assert message == "dump.npy: layer0.attn.q: expected [9, 64], found [1, 9, 64]"
    assert fits(Q, record(numbers(64, 9), OWN), SHAPES) == []
    assert "loss: expected [], found [2]" in refusal("loss", record(numbers(2), OWN))
    assert fits("loss", record(numbers(2), OWN), SHAPES) == []


def test_reads_rows_of_some_positions():
    rows = record(numbers(2, 61), OWN)
    for name in ("logits", "probs"):
        fitted = fit(name, rows, SHAPES, positions=(3, 8))
        assert (fitted.array.shape, fitted.positions) == ((2, 61), (3, 8))
        assert fits(name, rows, SHAPES) == [OWN]
    whole = fit("logits", record(numbers(9, 61), OWN), SHAPES, positions=tuple(range(9)))
    assert whole.positions is None
    assert fit(UP, record(numbers(9, 48), OWN), SHAPES, positions=(3, 8)).positions is None
    assert "logits: expected [9, 61], found [2, 61]" in refusal("logits", rows)
    assert "logits: expected [1, 61], found [2, 61]" in refusal("logits", rows, positions=(8,))
    assert "expected positions below 9, found 9" in refusal("logits", rows, positions=(3, 9))


# --- Several events side by side, and GGUF's order -------------------------------------------


@pytest.mark.parametrize("stored", [(9, 128), (1152,), (1, 9, 8, 16), (128, 9)])
def test_splits_rows_that_are_side_by_side(stored):
    whole = numbers(9, 128)
    recorded = record(whole.T if stored == (128, 9) else whole.reshape(stored), beside=QKV)
    for name, start, stop in zip(QKV, (0, 64, 96), (64, 96, 128), strict=True):
        fitted = fit(name, recorded, SHAPES, head_dim=16)
        assert fitted.array.tolist() == whole[:, start:stop].tolist()
        assert f"columns {start} to {stop - 1} of 128" in fitted.note


def test_rejects_events_that_cannot_be_side_by_side():
    assert "expected [T, C] [9, 128]" in refusal(Q, record(numbers(9, 64), beside=QKV))
    problem = refusal(Q, record(numbers(9, 64), beside=(Q, SCORES)))
    assert f"{SCORES} cannot be a part of a fused tensor" in problem
    assert "this model has no event 'gone'" in refusal(Q, record(numbers(9, 64), beside=(Q, "gone")))


def gguf_order(channels, dim):
    """Return the place of each channel in GGUF's order, where the channels of a RoPE pair are neighbours."""
    return [at + 2 * (j % (dim // 2)) + j // (dim // 2) for at in range(0, channels, dim) for j in range(dim)]


def in_gguf_order(a, heads):
    return pair_neighbours(a.T, heads).T  # GGUF stores the rows of the weight in this order


@pytest.mark.parametrize("kind", ["q", "k", "q_norm", "k_norm", "q_rope", "k_rope"])
def test_reorders_rows_in_the_order_of_gguf(kind):
    name, a, order = f"layer0.attn.{kind}", numbers(5, 24), np.array(gguf_order(24, 8))
    theirs = record(in_gguf_order(a, 3), adjacent=True)
    fitted = fit(name, theirs, {name: (5, 24)}, head_dim=8, order=order)
    assert fitted.array.tolist() == a.tolist()
    assert fitted.note == "rows reordered from GGUF's order to Hugging Face order"
    for stored, known in ((record(a), order), (record(a, adjacent=True), None)):
        kept = fit(name, stored, {name: (5, 24)}, head_dim=8, order=known)
        assert (kept.array.tolist(), kept.note) == (a.tolist(), "")


def test_reorders_a_fused_last_row_in_the_order_of_gguf():
    whole = numbers(1, 128)
    stored = np.concatenate(
        [in_gguf_order(whole[:, :64], 4), in_gguf_order(whole[:, 64:96], 2), whole[:, 96:]], 1
    )
    recorded = record(stored[0], beside=QKV, adjacent=True)
    orders = (np.array(gguf_order(64, 16)), np.array(gguf_order(32, 16)), None)
    parts = [fit(n, recorded, SHAPES, head_dim=16, order=order) for n, order in zip(QKV, orders, strict=True)]
    assert np.concatenate([part.array for part in parts], 1).tolist() == whole.tolist()
    assert {part.positions for part in parts} == {(8,)}
