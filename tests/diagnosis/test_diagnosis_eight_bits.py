"""diagnose and engines that round the inputs of products: the offered precision, and faults in spite of
it."""

import numpy as np
import pytest
from support.faulty_engine import decoder_run, rounded_to
from support.sweeps import some_of
from support.tiny_models import TOKENS, wide_model

from microgpt_trace.diagnosis.diagnose import diagnose_values

KINDS = {  # ways to round inputs, in words
    "Q8_0": "8-bit blocks of 32", "Q8_1": "8-bit blocks of 32 with float16 sums",
    "Q8_K": "8-bit blocks of 256", "divided": "8-bit blocks of 32 divided by float16 scales",
}  # fmt: skip
PRODUCTS = ("attn.q", "attn.k", "attn.v", "attn.out", "mlp.gate", "mlp.up", "mlp.down")
SAME = [9, 9, 9, 9, 9, 9, 9]


def diagnosed(model, events, tokens=TOKENS):
    """Return the diagnoses without a precision and with `q8`."""
    return [diagnose_values(model, tokens, events, compute=compute) for compute in (None, "q8")]


def assert_offered(plain, eight):
    """Check that a right engine of 8 bits is neither clean nor wrong without its precision, and clean with
    it."""
    print(plain.offer, plain.first_wrong, [(o.name, o.error, o.tolerance) for o in eight.operations])
    assert (plain.offer.compute, plain.first_wrong, plain.findings) == ("q8", None, ())
    assert (plain.clean, eight.clean, eight.offer) == (False, True, None)


# --- Right engines ---------------------------------------------------------------------------------


RIGHT = [
    ("Q8_0", "Q8_0", TOKENS), ("Q4_0", "Q8_0", SAME), ("Q4_1", "Q8_1", TOKENS), ("Q5_1", "Q8_1", SAME),
    ("Q4_K", "Q8_K", TOKENS), ("Q4_0", "divided", TOKENS), ("Q4_1", "divided", SAME),
]  # fmt: skip


@pytest.mark.parametrize(("type", "inputs", "tokens"), some_of(RIGHT, every=3), ids=str)
def test_a_right_engine_is_offered_its_precision_and_is_clean_with_it(tmp_path, type, inputs, tokens):
    model, config, weights = wide_model(tmp_path, type)
    plain, eight = diagnosed(model, decoder_run(config, weights, tokens, inputs=inputs), tokens)
    assert_offered(plain, eight)
    assert f"inputs of products are {KINDS[inputs]} (" in eight.compute_how
    assert eight.compute_how.count("(") == 1  # the same way in all products


HIDDEN_STATES = [
    ("Q8_0", ("mlp.residual", "logits")), ("Q8_0", ("logits",)), ("Q8_1", ("mlp.residual",)),
    ("divided", ("mlp.residual", "logits")), ("divided", ("logits",)),
]  # fmt: skip


@pytest.mark.parametrize(("inputs", "ends"), HIDDEN_STATES)
def test_hidden_states_of_a_right_engine_are_offered_a_precision(decoders, inputs, ends):
    """Several products lie between these events, so that no fault is named, and the dump is not clean
    either."""
    model, config, weights = decoders("qwen2")
    events = decoder_run(config, weights, TOKENS, inputs=inputs)
    assert_offered(*diagnosed(model, {name: x for name, x in events.items() if name.endswith(ends)}))


@pytest.mark.parametrize("inputs", KINDS)
def test_a_right_engine_with_gaps_in_its_dump_is_clean(decoders, inputs):
    model, config, weights = decoders("qwen2")
    events, ends = decoder_run(config, weights, TOKENS, inputs=inputs), ("attn.q", ".residual", "logits")
    kept = {name: value for name, value in events.items() if name.endswith(ends)}
    eight = diagnose_values(model, TOKENS, kept, compute="q8")
    print([(o.name, o.error, o.tolerance) for o in eight.operations])
    assert eight.clean


def test_hidden_states_of_a_right_engine_with_blocks_of_256_are_clean(tmp_path):
    """No product is recorded, so that the type of the matrices is the only clue to the blocks."""
    model, config, weights = wide_model(tmp_path, "IQ4_XS")
    events = decoder_run(config, weights, TOKENS, inputs="Q8_K")
    kept = {name: value for name, value in events.items() if name.endswith("mlp.residual")}
    eight = diagnose_values(model, TOKENS, kept, compute="q8")
    print([(o.name, o.error, o.tolerance) for o in eight.operations])
    assert eight.clean


def test_a_cause_that_explains_is_preferred_to_a_possible_precision(decoders):
    """Over a whole pass eight bits may cause an error of this size too."""
    model, config, weights = decoders("qwen2")
    logits = decoder_run(config, weights, TOKENS)["logits"] * np.float32(1.01)
    plain, eight = diagnosed(model, {"logits": logits})
    print(plain.offer, [finding.claim for finding in plain.findings], eight.clean)
    assert (eight.clean, plain.offer) == (True, None)
    assert [finding.id for finding in plain.findings if finding.explains] == ["times"]


def test_no_precision_is_offered_that_would_hide_a_factor(decoders):
    """An offered precision must make operations right by rounding their inputs."""
    model, config, weights = decoders("llama_gqa")
    events = decoder_run(config, weights, TOKENS, inputs="Q8_0", alter=of_products(lambda x, *_: x * 1.001))
    found = diagnose_values(model, TOKENS, events)
    print(found.offer, found.first_wrong, [finding.claim for finding in found.findings])
    assert found.offer is None


# --- Wrong engines ---------------------------------------------------------------------------------


def tf32(w):
    mantissa, exponent = np.frexp(w)
    return np.ldexp(np.rint(mantissa * 2048), exponent - 11).astype(np.float32)


def int8(w):
    """Round each row of a matrix to 8 bits."""
    step = np.abs(w).max(axis=-1, keepdims=True) / 127
    return (np.rint(w / step) * step).astype(np.float32) if w.ndim == 2 else w


def of_products(change):
    rng = np.random.default_rng(3)

    def alter(name, x):
        product = name.partition(".")[2] in PRODUCTS or name == "logits"
        return change(x, np.sqrt(np.square(x).mean()), rng).astype(np.float32) if product else x

    return alter


WEIGHTS = {
    "by 1.001": lambda w: w * np.float32(1.001), "bf16": lambda w: rounded_to(w, "bf16"),
    "tf32": tf32, "int8": int8,
}  # fmt: skip
VALUES = {
    "by 1.0002": of_products(lambda x, size, rng: x * 1.0002),
    "a vector added": of_products(lambda x, size, rng: x + 0.005 * size * rng.standard_normal(x.shape[1])),
    "rank one": of_products(
        lambda x, size, rng: x + 0.005 * size * np.outer(*(rng.standard_normal(n) for n in x.shape))
    ),
    "noise of the size": of_products(lambda x, size, rng: x + 0.005 * size * rng.standard_normal(x.shape)),
}


@pytest.mark.parametrize("wrong", some_of([*WEIGHTS, *VALUES], every=3))
def test_a_wrong_engine_is_neither_clean_nor_offered_a_precision(decoders, wrong):
    """Only the products are wrong; the embedding is the model's own."""
    model, config, weights = decoders("llama_gqa")
    change = WEIGHTS.get(wrong, lambda w: w)
    altered = {n: w if "embed" in n or w.ndim < 2 else change(w) for n, w in weights.items()}
    plain, eight = diagnosed(model, decoder_run(config, altered, TOKENS, alter=VALUES.get(wrong)))
    print([(d.offer, d.first_wrong, [f.id for f in d.findings]) for d in (plain, eight)])
    assert plain.offer is None
    assert plain.first_wrong == eight.first_wrong == "layer0.attn.q"


@pytest.mark.parametrize(
    ("wrong", "inputs"), [("by 1.0002", "Q8_0"), ("by 1.0002", "divided"), ("a vector added", "Q8_0")]
)
def test_eight_bits_do_not_hide_an_error_of_all_products(decoders, wrong, inputs):
    model, config, weights = decoders("llama_gqa")
    events = decoder_run(config, weights, TOKENS, inputs=inputs, alter=VALUES[wrong])
    found = diagnose_values(model, TOKENS, events, compute="q8")
    print([(f.claim, f.residual) for f in found.findings])
    assert found.first_wrong == "layer0.attn.q"
