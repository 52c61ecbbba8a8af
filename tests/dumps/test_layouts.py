"""Layouts: stored one way after another, a tensor comes back, or its shape is said to have two readings."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.tiny_models import pair_neighbours

from microgpt_trace.dumps.layouts import OWN, Recorded, fit, fits
from microgpt_trace.errors import InputError

fast = settings(deadline=None, derandomize=True)
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
    """Every way of storing all of [T, H*D]; (letters, stored)."""
    yield "TC", a
    yield "CT", a.T
    yield "TC", a.ravel()
    for dim in dims:
        yield "HTD", heads_first(a, dim)
        yield "THD", a.reshape(len(a), -1, dim)


def square_stores(a):
    """The same for [H, T, S]."""
    yield "HTS", a
    yield "THS", a.swapaxes(0, 1)
    yield "HTS", a.ravel()


def rivals(stored, stores):
    """How many arrangements of the elements have that shape, ones apart."""
    shape = [n for n in stored.shape if n != 1]
    same = [other.ravel().tolist() for _, other in stores if [n for n in other.shape if n != 1] == shape]
    return len({tuple(order) for order in same})


def comes_back(name, a, stored, stores, **options):
    """Whether `fit` gives [.., ..] back, or refuses exactly where the shape has two readings."""
    recorded = record(stored)
    letters = fits(name, recorded, {name: a.shape}, options.get("head_dim"))
    assert len(letters) == rivals(stored, stores), (stored.shape, letters)
    if len(letters) > 1:
        message = refusal(name, recorded, {name: a.shape}, **options)
        assert f"--layout {name}=LETTERS" in message
        assert all(f"({one})" in message for one in letters)
        return
    fitted = fit(name, recorded, {name: a.shape}, **options)
    assert (fitted.array.tolist(), fitted.positions) == (a.tolist(), None)


@fast
@given(lengths, lengths, lengths, st.integers(0, 2), st.booleans(), st.data())
def test_whatever_the_layout_values_come_back(length, heads, dim, ones, known, data):
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
    comes_back(name, a, stored, stores, head_dim=dim if known else None)
    if known:
        stored = stored.ravel() if data.draw(st.booleans()) else stored
        decided = fit(name, record(stored, letters), {name: a.shape}, head_dim=dim)
        assert decided.array.tolist() == a.tolist()


@fast
@given(st.integers(2, 5), lengths, lengths, st.integers(0, 2), st.sampled_from(["", "last"]), st.data())
def test_the_last_row_alone(length, heads, dim, ones, layout, data):
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


NOTES = {  # what is said of an array of this shape
    (9, 64): "",
    (9, 1, 64): "[9, 1, 64] taken as [T, C]",
    (64, 9): "[64, 9] taken as [C, T]",
    (1, 4, 9, 16): "[1, 4, 9, 16] taken as [H, T, D]",
    (9, 4, 16): "[9, 4, 16] taken as [T, H, D]",
    (576,): "[576] taken as [T, C] = [9, 64]",
    (64,): "[64] taken as the last row",
}


def test_what_was_done_is_noted():
    assert {shape: fit(Q, record(numbers(*shape)), SHAPES, head_dim=16).note for shape in NOTES} == NOTES


def test_a_square_is_refused_with_the_choices_and_letters_choose():
    assert refusal("embed.tok", record(numbers(9, 9))) == (
        "dump.npy: [9, 9] is embed.tok as [T, C] (TC) or as [C, T] (CT); --layout embed.tok=LETTERS, "
        "or layout in a map, decides"
    )
    fitted = fit("embed.tok", record(numbers(9, 9), "CT"), SHAPES)
    assert fitted.note == "[9, 9] taken as [C, T]"
    assert fitted.array.tolist() == numbers(9, 9).T.tolist()


def test_another_width_of_a_head_does_not_fit_and_nothing_is_read_to_know_it():
    def read():
        raise AssertionError("read")

    stored = Recorded("dump.npy", (8, 9, 8), read)
    assert fits(Q, stored, SHAPES, 16) == []
    assert refusal(Q, stored, head_dim=16) == (
        f"dump.npy: [8, 9, 8] does not fit {Q}; expected [T, C] [9, 64], [C, T] [64, 9], "
        "[H, T, D] [4, 9, 16], [T, H, D] [9, 4, 16], the last row [1, 64]"
    )
    assert fits(Q, stored, SHAPES) == ["HTD"]  # of an unknown width
    assert fits(UP, record(np.zeros((4, 9, 12))), SHAPES) == []  # which has no heads
    for shape in ((9, 63), (576,), (1, 576)):
        assert refusal(Q, record(np.zeros(shape), "HTD")).endswith("expected HTD of [9, 64]")


@pytest.mark.parametrize("shape", [(8, 64), (9, 65), (2, 9, 64), (0,), (), (577,), (0, 9, 64)])
def test_a_shape_that_fits_in_no_way(shape):
    assert fits(Q, record(np.zeros(shape)), SHAPES, 16) == []
    assert f"dump.npy: {list(shape)} does not fit {Q}" in refusal(Q, record(np.zeros(shape)), head_dim=16)


@pytest.mark.parametrize(
    ("name", "layout", "message"),
    [
        (Q, "HTS", f"'HTS' is no layout of {Q}; these are: TC, CT, HTD, THD, last"),
        (UP, "HTD", f"'HTD' is no layout of {UP}; these are: TC, CT, last"),
        (SCORES, "TC", f"'TC' is no layout of {SCORES}; these are: HTS, THS, last"),
        (SCORES, "SHT", f"'SHT' is no layout of {SCORES}"),
        ("loss", "TC", "'TC' is no layout of loss; a number has none"),
        (Q, "CT", "[9, 64] does not fit layer0.attn.q; expected [C, T] [64, 9]"),
        (Q, "last", "[9, 64] does not fit layer0.attn.q; expected the last row [1, 64]"),
        ("lm_head", "", "'lm_head' is no event of this model"),
    ],
)
def test_letters_that_do_not_fit(name, layout, message):
    assert message in refusal(name, record(np.zeros((9, 64)), layout))


@pytest.mark.parametrize("layout", ["", OWN])
def test_a_number(layout):
    for shape in [(), (1,), (1, 1)]:
        fitted = fit("loss", record(np.full(shape, 2.5), layout), SHAPES)
        assert (fitted.array.shape, float(fitted.array), fitted.note) == ((), 2.5, "")


def test_one_position_keeps_its_axis():
    shapes = {UP: (1, 48), SCORES: (4, 1, 1)}
    for name, stored in ((UP, (48,)), (UP, (48, 1)), (SCORES, (4,)), (SCORES, (1, 4, 1, 1))):
        fitted = fit(name, record(np.zeros(stored)), shapes)
        assert (fitted.array.shape, fitted.positions) == (shapes[name], None)
    assert fit(UP, record(np.zeros(48), "last"), shapes).positions is None


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_bits_and_dtype_stay(dtype):
    a = np.array([[np.nan, -0.0, 1e-45], [np.inf, -np.inf, 0.1]], dtype)
    fitted = fit(UP, record(a.T, dtype=dtype), {UP: (2, 3)})
    assert (fitted.array.dtype, fitted.array.tobytes()) == (dtype, a.tobytes())


# --- Our own order ---------------------------------------------------------------------------


def test_our_own_order_must_be_exact():
    assert fit(Q, record(numbers(9, 64), OWN), SHAPES).note == ""
    assert fit("embed.tok", record(numbers(9, 9), OWN), SHAPES).array.tolist() == numbers(9, 9).tolist()
    message = refusal(Q, record(numbers(1, 9, 64), OWN))
    assert message == "dump.npy: expected [9, 64] for layer0.attn.q, found [1, 9, 64]"
    assert fits(Q, record(numbers(64, 9), OWN), SHAPES) == []
    assert "expected [] for loss, found [2]" in refusal("loss", record(numbers(2), OWN))
    assert fits("loss", record(numbers(2), OWN), SHAPES) == []


def test_rows_of_some_positions():
    rows = record(numbers(2, 61), OWN)
    for name in ("logits", "probs"):
        fitted = fit(name, rows, SHAPES, positions=(3, 8))
        assert (fitted.array.shape, fitted.positions) == ((2, 61), (3, 8))
        assert fits(name, rows, SHAPES) == [OWN]
    whole = fit("logits", record(numbers(9, 61), OWN), SHAPES, positions=tuple(range(9)))
    assert whole.positions is None
    assert fit(UP, record(numbers(9, 48), OWN), SHAPES, positions=(3, 8)).positions is None
    assert "expected [9, 61] for logits, found [2, 61]" in refusal("logits", rows)
    assert "expected [1, 61] for logits, found [2, 61]" in refusal("logits", rows, positions=(8,))
    assert "position 9 is none of 9 tokens" in refusal("logits", rows, positions=(3, 9))


# --- Several events side by side, and GGUF's order -------------------------------------------


@pytest.mark.parametrize("stored", [(9, 128), (1152,), (1, 9, 8, 16), (128, 9)])
def test_rows_side_by_side(stored):
    whole = numbers(9, 128)
    recorded = record(whole.T if stored == (128, 9) else whole.reshape(stored), beside=QKV)
    for name, start, stop in zip(QKV, (0, 64, 96), (64, 96, 128), strict=True):
        fitted = fit(name, recorded, SHAPES, head_dim=16)
        assert fitted.array.tolist() == whole[:, start:stop].tolist()
        assert f"columns {start} to {stop - 1} of 128" in fitted.note


def test_what_cannot_lie_side_by_side():
    assert "[9, 64] does not fit" in refusal(Q, record(numbers(9, 64), beside=QKV))
    assert "no event whose rows" in refusal(Q, record(numbers(9, 64), beside=(Q, SCORES)))
    assert "'gone' is no event" in refusal(Q, record(numbers(9, 64), beside=(Q, "gone")))


def gguf_order(channels, dim):
    """Where GGUF's order has each channel: those of a head that RoPE turns together are neighbours there."""
    return [at + 2 * (j % (dim // 2)) + j // (dim // 2) for at in range(0, channels, dim) for j in range(dim)]


def in_gguf_order(a, heads):
    return pair_neighbours(a.T, heads).T  # as GGUF stores the rows of a weight that makes these columns


@pytest.mark.parametrize("kind", ["q", "k", "q_norm", "k_norm", "q_rope", "k_rope"])
def test_rows_in_ggufs_order(kind):
    name, a, order = f"layer0.attn.{kind}", numbers(5, 24), np.array(gguf_order(24, 8))
    theirs = record(in_gguf_order(a, 3), adjacent=True)
    fitted = fit(name, theirs, {name: (5, 24)}, head_dim=8, order=order)
    assert fitted.array.tolist() == a.tolist()
    assert fitted.note == "rows put from GGUF's order into Hugging Face order"
    for stored, known in ((record(a), order), (record(a, adjacent=True), None)):
        kept = fit(name, stored, {name: (5, 24)}, head_dim=8, order=known)
        assert (kept.array.tolist(), kept.note) == (a.tolist(), "")


def test_a_fused_last_row_in_ggufs_order():
    whole = numbers(1, 128)
    stored = np.concatenate(
        [in_gguf_order(whole[:, :64], 4), in_gguf_order(whole[:, 64:96], 2), whole[:, 96:]], 1
    )
    recorded = record(stored[0], beside=QKV, adjacent=True)
    orders = (np.array(gguf_order(64, 16)), np.array(gguf_order(32, 16)), None)
    parts = [fit(n, recorded, SHAPES, head_dim=16, order=order) for n, order in zip(QKV, orders, strict=True)]
    assert np.concatenate([part.array for part in parts], 1).tolist() == whole.tolist()
    assert {part.positions for part in parts} == {(8,)}
