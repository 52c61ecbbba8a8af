"""Check operations for huge, tiny and not finite numbers, and against rows computed in plain Python.

test_model.py checks every gradient of whole models."""

import math

import numpy as np
import pytest
from support.judges import agree, central_difference, softmax_of

from microgpt_trace.microgpt import operations

T, HEADS, WIDTH, VOCAB = 5, 2, 6, 7
F64 = np.float64
HEAD = operations.HeadConstants.of(T, HEADS, WIDTH, F64)
ONES = np.ones((VOCAB, VOCAB))
NORM = operations.NormConstants.of(WIDTH, F64)
ZERO = np.zeros(())


def random_array(*shape, seed=0, scale=1.0):
    return np.random.default_rng([seed, *shape]).normal(0, scale, shape)


def check_backward(forward, backward, x):
    """Compare the gradient of sum(weights * output) with differences along random directions."""
    rng = np.random.default_rng(9)
    output, cache = forward(x)
    weights = rng.normal(size=output.shape)
    for _ in range(3):
        direction = rng.normal(size=x.shape)
        analytic = float((backward(weights, cache) * direction).sum())
        expected = central_difference(lambda h, d=direction: float((forward(x + h * d)[0] * weights).sum()))
        print(f"analytic {analytic:.9g}, differences {expected:.9g}")
        agree(analytic, expected, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 30.0])
def test_rmsnorm_backward(scale):
    check_backward(
        lambda x: operations.rmsnorm_forward(x, NORM),
        lambda dy, cache: operations.rmsnorm_backward(dy, cache, NORM),
        random_array(4, WIDTH, scale=scale),
    )


@pytest.mark.parametrize("stack", [(), (3,)], ids=["one name", "a group"])
def test_attention_weights_backward_with_the_maximum_subtracted(stack):
    scores = random_array(*stack, HEADS * T, T, scale=40.0)
    mm = operations.product_for(scores)
    check_backward(
        lambda scores: (operations.attention_weights_forward(mm, scores, HEAD),) * 2,
        lambda dy, weights: operations.softmax_backward(mm, dy, weights, HEAD.ones),
        scores,
    )


def one_hot_share():
    targets = np.zeros((4, VOCAB))
    targets[range(4), [1, 0, 6, 1]] = share = np.array([0.1, 0.4, 0.3, 0.2])
    return targets, share[:, None]


def test_rmsnorm_of_zeros_is_zero():
    y, cache = operations.rmsnorm_forward(np.zeros((2, WIDTH)), NORM)
    assert not y.any()
    agree(operations.rmsnorm_backward(np.ones_like(y), cache, NORM), np.full_like(y, 1 / math.sqrt(1e-5)))


def weights_of(scores):
    """Return the attention weights of scores: [H, T, T] -> [H, T, T]"""
    with np.errstate(over="ignore", invalid="ignore"):
        weights = operations.attention_weights_forward(np.matmul, scores.reshape(HEADS * T, T), HEAD)
    return weights.reshape(HEADS, T, T)


@pytest.mark.parametrize("scale", [1e300, 1000.0, 60.1, 60.0, 1e-30])  # above 60 the maximum is subtracted
def test_attention_weights_are_exact(scale):
    scores = np.random.default_rng(2).uniform(-scale, scale, (HEADS, T, T))
    scores[0, 0, :2] = -scale, scale
    weights = weights_of(scores)
    for head in range(HEADS):
        for i, row in enumerate(scores[head].tolist()):
            expected = [*softmax_of(row[: i + 1]), *[0.0] * (T - i - 1)]
            agree(weights[head, i], expected, atol=0, what=f"row {i}")


@pytest.mark.parametrize(
    ("scale", "shift"), [(1e30, 0.0), (60.1, 0.0), (60.0, 0.0), (1e-30, 1000.0), (1.0, -1000.0)]
)
def test_cross_entropy_is_exact(scale, shift):
    logits = np.random.default_rng(2).uniform(-scale, scale, (4, VOCAB)) + shift
    targets, share = one_hot_share()
    probs, loss = operations.cross_entropy_forward(logits, targets, ONES)
    agree(probs, [softmax_of(row) for row in logits.tolist()], rtol=1e-9, atol=1e-300, what="probs")
    rows = logits[range(4), targets.argmax(axis=1)]
    tops = logits.max(axis=1)
    sums = [math.log(math.fsum(np.exp(row - row.max()).tolist())) for row in logits]
    agree(loss, math.fsum(((tops + sums - rows) * share[:, 0]).tolist()), what="loss")


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_loss_within_the_range_of_the_dtype_is_finite(dtype):
    """The range of the logits exceeds the largest number, but the loss of the target does not."""
    large = float(np.finfo(dtype).max) * 0.75
    logits, targets = np.array([[large, -large, 0.0]], dtype), np.array([[1, 0, 0]], dtype)
    with np.errstate(all="ignore"):
        probs, loss = operations.cross_entropy_forward(logits, targets, np.ones((3, 3), dtype))
    assert probs.tolist() == [[1, 0, 0]]
    assert float(loss) == 0


@pytest.mark.parametrize(
    ("scale", "shift"), [(1.0, -100.0), (59.0, 0.0), (88.0, 0.0), (120.0, 100.0), (1e30, 0.0)]
)
def test_float32_softmax_agrees_with_torch_in_float64(scale, shift):
    torch = pytest.importorskip("torch")
    scores = np.random.default_rng(3).uniform(-scale, scale, (4, VOCAB)) + shift
    scores = scores.astype(np.float32)
    targets, _ = one_hot_share()
    with np.errstate(over="ignore"):
        probs, _ = operations.cross_entropy_forward(scores, targets, np.ones((VOCAB, VOCAB), np.float32))
    expected = torch.tensor(scores, dtype=torch.float64).softmax(-1).numpy()
    agree(probs, expected, rtol=3e-5, atol=1e-37, what="probs")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_value_that_is_not_finite_stays_in_its_row(value):
    x = random_array(T, WIDTH)
    x[2, 1] = value
    targets = np.zeros((T, WIDTH))
    with np.errstate(all="ignore"):
        for y in (
            operations.rmsnorm_forward(x, NORM)[0],
            operations.relu_forward(x, ZERO),
            operations.cross_entropy_forward(x, targets, np.ones((WIDTH, WIDTH)))[0],
        ):
            assert np.isfinite(np.delete(y, 2, axis=0)).all()
    assert not np.isfinite(operations.relu_forward(x, ZERO)[2, 1])


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_score_that_is_not_finite_stays_in_its_row(value):
    scores = random_array(HEADS, T, T)
    scores[1, 3, 1] = value
    has_nan = np.isnan(weights_of(scores)).any(axis=-1)
    assert has_nan[1, 3]
    assert np.flatnonzero(has_nan.any(axis=0)).tolist() == [3]


@pytest.mark.parametrize("value", [np.nan, 1e300])
def test_a_score_above_the_diagonal_has_no_effect(value):
    scores = random_array(HEADS, T, T)
    plain = weights_of(scores)
    scores[1, 2, 3] = value
    agree(weights_of(scores), plain, what="weights")
