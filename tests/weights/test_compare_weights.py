"""Parameters of two models: rounding holds, faults are found and their cause is named.

gguf's quantisers round independently; the faults are put into the weights by hand.
"""

import json
import re
import tracemalloc
from dataclasses import asdict, replace
from itertools import combinations

import numpy as np
import pytest
from support.commands import microgpt
from support.exports import stored
from support.planted_faults import put, transposed, unrelated
from support.sweeps import some_of
from support.tiny_models import (
    CASES,
    Blocks,
    pair_neighbours,
    quantise,
    random_blocks,
    random_quantised_weights,
    random_weights,
    rope_4,
    tiny_config,
    write_folder,
    write_gguf,
)

from microgpt_trace import Config, Model, load
from microgpt_trace.arrays.encodings import ENCODINGS, StoredTensor
from microgpt_trace.errors import InputError
from microgpt_trace.microgpt.parameters import Parameters
from microgpt_trace.weights.relations import find_cause
from microgpt_trace.weights.stored_rounding import FACTOR, Values, measure, step_tensor
from microgpt_trace.weights.weights_comparison import compare_weights

ROUNDING = ("F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "MXFP4")
K_TYPES = {"Q2_K": 16, "Q3_K": 16, "Q4_K": 32, "Q5_K": 32, "Q6_K": 16}  # elements that share a scale
WIDE = tiny_config(intermediate_size=64, **rope_4())  # every row holds whole blocks of 32
ATTN, MLP = "model.layers.0.self_attn.{}_proj.weight", "model.layers.0.mlp.{}_proj.weight"
NORM = "model.layers.0.input_layernorm.weight"


def folder(tmp_path, name="a", config=WIDE, edit=None, dtype="F32", seed="weights"):
    """Load a folder of random weights, changed by `edit`."""
    weights = random_weights(config, seed)
    if edit:
        edit(weights)
    return load(write_folder(tmp_path / name, config, weights, dtype))


def gguf_file(tmp_path, type="Q8_0", edit=None, damage=None, name="b"):
    """Load a GGUF of the folder's weights. `edit` changes them before they are quantised, `damage` after."""
    weights = random_weights(WIDE, "weights")
    if edit:
        edit(weights)
    blocks = quantise(weights, type)
    if damage:
        damage(blocks)
    return load(write_gguf(tmp_path / f"{name}.gguf", WIDE, blocks))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return folder(tmp_path_factory.mktemp("whole"))


def failing(found):
    for row in found.rows:
        if not row.holds:
            print(f"{row.name}: {row.relative_l2} against {row.expected}: {row.cause}")
    assert found.differing == len([row for row in found.rows if not row.holds])
    return {row.name: row for row in found.rows if not row.holds}


@pytest.mark.parametrize("type", ROUNDING)
def test_rounding_to_a_type_is_explained(whole, tmp_path, type):
    found = compare_weights(whole, gguf_file(tmp_path, type))
    ratios = [row.relative_l2 / row.expected for row in found.rows if row.expected]
    print(f"{type}: actual / expected {min(ratios):.2f} to {max(ratios):.2f}, allowed {FACTOR}")
    assert (found.agree, failing(found), len(ratios)) == (True, {}, 16)
    assert 0.85 < min(ratios) < max(ratios) < 1.15
    assert {row.type_b for row in found.rows} == {type, "F32"}


@pytest.mark.parametrize(
    ("a", "b"), [("BF16", "F16"), ("BF16", "Q4_0"), ("Q8_0", "Q8_0"), ("Q8_0", "Q5_1"), ("Q4_0", "Q4_1")]
)
def test_two_types_of_one_source_agree(tmp_path, a, b):
    assert compare_weights(gguf_file(tmp_path, a, name="a"), gguf_file(tmp_path, b)).agree


def rounded_to_nearest(blocks, rng):
    """Return random values whose nearest numbers in the code book of each run are the values of `blocks`."""
    start, stop, _ = INTEGERS[blocks.type]
    raw, levels = blocks.rows.reshape(-1, stop).copy(), []
    for code in range(16):
        raw[:, start:] = 0x11 * code
        levels.append(Blocks(blocks.type, raw.reshape(blocks.rows.shape)).values())
    values, levels = blocks.values(), np.sort(levels, axis=0)
    # The first and the last number have equal distances on both sides.
    levels = np.concatenate([2 * levels[:1] - levels[1:2], levels, 2 * levels[-1:] - levels[-2:-1]])
    at = (levels[1:-1] < values).sum(axis=0, keepdims=True)
    left, right = (np.take_along_axis(levels, at + i, axis=0)[0] for i in (0, 2))
    return ((values + left + (right - left) * rng.random(values.shape)) / 2).astype(np.float32)


def step_of_runs(blocks, run):
    """Return the smallest distance of two values of a run, repeated for its elements."""
    values = np.sort(blocks.values().reshape(-1, run), axis=1)
    gaps = np.diff(values, axis=1)
    steps = np.where(gaps > 1e-3 * np.abs(values).max(), gaps, np.inf).min(axis=1)
    return np.repeat(np.where(np.isfinite(steps), steps, 0), run).reshape(blocks.values().shape)


@pytest.mark.parametrize("type", [*K_TYPES, "IQ4_NL", "IQ4_XS", "MXFP4"])
def test_the_steps_of_k_types_and_code_books_match_their_runs(tmp_path, type):
    config = tiny_config(hidden_size=256, intermediate_size=256, num_hidden_layers=1, **rope_4())
    blocks = random_quantised_weights(config, lambda name: type, type)
    rng, source = np.random.default_rng(1), {}
    for name, w in blocks.items():
        source[name] = w
        if isinstance(w, Blocks) and type not in K_TYPES:
            source[name] = rounded_to_nearest(w, rng)
        elif isinstance(w, Blocks):
            steps = step_of_runs(w, K_TYPES[type])
            source[name] = (w.values() + steps * rng.uniform(-0.5, 0.5, steps.shape)).astype(np.float32)
    a = load(write_folder(tmp_path / "a", config, source))
    found = compare_weights(a, load(write_gguf(tmp_path / "b.gguf", config, blocks)))
    ratios = [row.relative_l2 / row.expected for row in found.rows if row.expected]
    print(f"{type}: {min(ratios):.3f} to {max(ratios):.3f}")
    assert found.agree
    assert 0.9 < min(ratios) < max(ratios) < 1.1


@pytest.mark.parametrize(("case", "kinds"), [("llama_gqa", "wq wk"), ("llama_mha_bias", "wq wk bq bk")])
def test_a_gguf_without_the_permutation_of_q_and_k_is_recognised(tmp_path, case, kinds):
    weights = random_weights(CASES[case], "weights")
    b = load(write_gguf(tmp_path / "b.gguf", CASES[case], weights, permute=False))
    rows = failing(compare_weights(folder(tmp_path, config=CASES[case]), b))
    assert {name.rpartition("_")[2] for name in rows} == {*kinds.split()}
    causes = [row.cause for row in rows.values()]
    assert all(cause.startswith("RoPE order: A's rows are in GGUF's adjacent pairs") for cause in causes)


def change(name, function):
    """Return an edit that applies a function to one tensor."""

    def edit(weights):
        weights[name] = np.ascontiguousarray(function(weights[name]), np.float32)

    return edit


def copy_from(name, other):
    def edit(weights):
        weights[name] = weights[other].copy()

    return edit


FAULTS = {  # an edit, the parameter that differs, and its cause with a measured factor
    "transposed": (change(ATTN.format("o"), np.transpose), "attn_wo", "transposed.*"),
    "not square": (change(MLP.format("up"), transposed), "mlp_wup", "transposed.*"),
    "other layer": (
        copy_from(ATTN.format("v"), "model.layers.1.self_attn.v_proj.weight"), "attn_wv",
        "B contains A's layer1.attn_wv.*",
    ),
    "k as v": (copy_from(ATTN.format("v"), ATTN.format("k")), "attn_wv", "B contains A's layer0.attn_wk.*"),
    "adjacent pairs": (
        change(ATTN.format("q"), lambda w: pair_neighbours(w, 4)), "attn_wq",
        "RoPE order: B's rows are in GGUF's adjacent pairs.*",
    ),
    "negated": (change(ATTN.format("q"), np.negative), "attn_wq", "negated: B is -A.*"),
    "halved": (change(ATTN.format("o"), lambda w: w / 2), "attn_wo", "scaled: B is (0.5|0.499|0.500).*"),
    "5 % more": (change(ATTN.format("o"), lambda w: w * 1.05), "attn_wo", "scaled: B is (1.05|1.049).*"),
    "gain + 1": (change(NORM, lambda g: g + 1), "attn_norm", r"B is A \+ 1.*"),
    "gain - 1": (change(NORM, lambda g: g - 1), "attn_norm", "B is A - 1.*"),
    "zeros": (change(ATTN.format("o"), np.zeros_like), "attn_wo", "B is all zeros.*"),
    "unrelated": (change(ATTN.format("o"), unrelated), "attn_wo", ""),
}  # fmt: skip


def cause_of(a, b, name):
    return failing(compare_weights(a, b))[f"layer0.{name}"].cause


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_named_in_one_type_and_between_two(whole, tmp_path, fault):
    edit, name, cause = FAULTS[fault]
    assert re.fullmatch(cause, cause_of(whole, folder(tmp_path, edit=edit), name))
    narrow = folder(tmp_path, "narrow", dtype="BF16")
    assert re.fullmatch(cause, cause_of(narrow, gguf_file(tmp_path, edit=edit), name))


# --- The verdict and what the command prints --------------------------------------------------


def damaged_q4_1(row, change):
    """Return a damage to the blocks of a row of mlp_wdown: scale and minimum in float16, 16 bytes of
    integers."""

    def damage(blocks):
        raw = blocks[MLP.format("down")].rows[row].reshape(-1, 20)
        d, m = raw[:, :2].copy().view(np.float16), raw[:, 2:4].copy().view(np.float16)
        d, m, q = change(d.astype(np.float32), m.astype(np.float32), raw[:, 4:].copy())
        raw[:] = np.hstack([d.astype(np.float16).view(np.uint8), m.astype(np.float16).view(np.uint8), q])

    return damage


def one_nibble(times):
    def change(d, m, q):
        low = q[0, 3] & 15
        q[0, 3] = (q[0, 3] & 0xF0) | (low + times if low < 8 else low - times)
        return d, m, q

    return change


def swap_rows(blocks):
    rows = blocks[MLP.format("down")].rows
    rows[[3, 4]] = rows[[4, 3]]


EQUAL = "All differences in 21 parameters are allowed; 20 are equal, number for number"
ALLOWED = (
    r"layer0\.mlp_wdown, Q4_1 on both sides: 1 of 2,048 elements differ, relative L2 0\.\d+ "
    r"\(rounding explains 0\.\d+\)"
)
MOVED = "B is above A on average, by 1.2 times the error that rounding explains"
DIFFERS = "1 of 21 parameters differ layer0.mlp_wdown.*of the other parameters, 20 are equal"
SAME_TYPE = {  # a damage to a Q4_1 tensor; True if it may still be a rounding of the same weights; the words
    "an integer one off": (damaged_q4_1(5, one_nibble(1)), True, f"{EQUAL}.*{ALLOWED}"),
    "an integer eight off": (damaged_q4_1(5, one_nibble(8)), False, DIFFERS),
    "a scale 1.01": (damaged_q4_1(5, lambda d, m, q: (d * 1.01, m, q)), True, EQUAL),
    "a scale 1.5": (damaged_q4_1(5, lambda d, m, q: (d * 1.5, m, q)), False, DIFFERS),
    "minima of a row": (damaged_q4_1(5, lambda d, m, q: (d, m + d / 2, q)), True, EQUAL),
    "all minima": (damaged_q4_1(slice(None), lambda d, m, q: (d, m + d / 2, q)), False, MOVED),
    "rows": (swap_rows, False, DIFFERS),
}


@pytest.mark.parametrize("what", SAME_TYPE)
def test_damaged_numbers_of_one_type_are_not_the_same(tmp_path, what):
    damage, holds, words = SAME_TYPE[what]
    a, b = gguf_file(tmp_path, "Q4_1", name="a"), gguf_file(tmp_path, "Q4_1", damage=damage)
    found = compare_weights(a, b)
    (row,) = (row for row in found.rows if not row.equal)
    print(row)
    assert (row.name, found.same, found.agree, row.unequal > 0) == ("layer0.mlp_wdown", False, holds, True)
    assert not (holds and row.cause)
    done = microgpt("diff", tmp_path / "a.gguf", tmp_path / "b.gguf", "--weights")
    assert (done.code, "All 21 parameters are equal" in done.out) == (not holds, False)
    assert re.search(words, " ".join(done.out.split()))


def printed(a, b, *more):
    """Return what the command prints about the weights of two models, on one line."""
    done = microgpt("diff", a.origin, b.origin, "--weights", *more)
    assert done.code == 0
    return " ".join(done.out.split())


def test_the_command_reports_equal_and_converted_parameters(whole, tmp_path):
    assert "All 21 parameters are equal, number for number" in printed(whole, whole)
    document = json.loads(printed(whole, whole, "--layer", "layer0.*", "--json"))
    assert (document["agree"], document["same"], document["of"]) == (True, False, 21)
    some = printed(whole, whole, "--layer", "layer0.*")
    assert "The 9 parameters named (of 21) are equal, number for number" in some
    text = printed(whole, gguf_file(tmp_path))
    assert "All 21 parameters are equal" not in text
    assert "All differences in 21 parameters are allowed; 5 are equal, number for number" in text
    assert "16 parameters, F32 in A, Q8_0 in B:" in text


def test_nan_in_the_same_places_is_reported_but_no_difference(tmp_path):
    broken = change(ATTN.format("o"), put((3, slice(9, 11)), np.nan))
    a, b = folder(tmp_path, edit=broken), folder(tmp_path, "b", edit=broken, dtype="BF16")
    assert "layer0.attn_wo: 2 of 1,024 elements are NaN or infinite on both sides" in printed(a, b)
    fewer = folder(tmp_path, "c", edit=change(ATTN.format("o"), put((3, 9), np.nan)))
    assert cause_of(fewer, a, "attn_wo") == "B is NaN at [3, 10]"


@pytest.mark.parametrize("dtype", ["F32", "BF16"])
def test_one_wrong_element_is_found_with_its_place_and_values(whole, tmp_path, dtype):
    b = folder(tmp_path, "b", edit=change(MLP.format("down"), put((7, 40), 0.75)), dtype=dtype)
    row = failing(compare_weights(whole, b))["layer0.mlp_wdown"]
    before = float(random_weights(WIDE, "weights")[MLP.format("down")][7, 40])
    assert (row.index, row.value_a, row.value_b) == ((7, 40), before, 0.75)
    assert row.max_abs == pytest.approx(abs(0.75 - before), abs=1e-12)
    if dtype == "F32":
        assert (row.unequal, row.cause, row.expected) == (1, "1 of 2,048 elements differ", None)
    else:
        assert (row.block, row.blocks_off) == ((7, 32), 1)
        assert row.cause.startswith("1 run(s) of 32 elements differ, the run at [7, 32] by ")


@pytest.mark.parametrize(("value", "word"), [(np.nan, "NaN"), (-np.inf, "infinite")], ids=str)
def test_a_value_that_is_not_finite_on_one_side_is_found(whole, tmp_path, value, word):
    broken = folder(tmp_path, edit=change(ATTN.format("o"), put((3, 9), value)))
    row = failing(compare_weights(whole, broken))["layer0.attn_wo"]
    assert (row.cause, row.index) == (f"B is {word} at [3, 9]", (3, 9))
    assert (row.max_abs, row.relative_l2, row.unequal) == (np.inf, 0, 1)
    assert cause_of(broken, whole, "attn_wo") == f"A is {word} at [3, 9]"


def test_a_tied_head_is_compared_with_a_stored_one(whole, tmp_path):
    def tie(weights):
        weights["lm_head.weight"] = weights["model.embed_tokens.weight"].copy()

    tied = folder(tmp_path, config=WIDE | {"tie_word_embeddings": True})
    written = folder(tmp_path, "b", edit=tie)
    for a, b, name_b in ((tied, written, "lm_head"), (written, tied, "wte")):
        found = compare_weights(a, b)
        assert (found.agree, found.rows[-1].name, found.rows[-1].name_b) == (True, "lm_head", name_b)
    assert list(failing(compare_weights(tied, whole))) == ["lm_head"]


def test_different_shapes_and_missing_parameters_are_listed(whole, tmp_path):
    deeper = WIDE | {"num_hidden_layers": 3, "intermediate_size": 96}
    found = compare_weights(whole, folder(tmp_path, "b", deeper))
    assert (found.agree, found.only_a) == (False, ())
    assert (len(found.only_b), found.only_b[0]) == (9, "layer2.attn_norm")
    rows = failing(found)
    assert {name.rpartition("_")[2] for name in rows} == {"wgate", "wup", "wdown"}
    assert (rows["layer0.mlp_wup"].shape_a, rows["layer0.mlp_wup"].shape_b) == ((64, 32), (96, 32))
    assert rows["layer0.mlp_wup"].cause == "shapes differ"
    assert found.worst == "layer0.mlp_wgate"


def test_globs_match_our_names_and_those_of_the_files(whole, tmp_path):
    b = gguf_file(tmp_path)
    for glob in ("layer0.attn_w?", "blk.0.attn_?.weight", "*layers.0.self_attn.?_proj.weight"):
        found = [row.name for row in compare_weights(whole, b, names=[glob]).rows if "output" not in row.name]
        assert set(found) >= {"layer0.attn_wq", "layer0.attn_wk", "layer0.attn_wv"}
        assert len(found) < 5
    with pytest.raises(InputError, match=r"'layer9.*' matches no parameter of .* or .*"):
        compare_weights(whole, b, names=["wte", "layer9.*"])


def test_rows_are_plain_data_in_order_of_use_and_progress_is_reported(whole, tmp_path):
    calls = []
    found = compare_weights(whole, gguf_file(tmp_path), report=lambda *progress: calls.append(progress))
    assert [row.name for row in found.rows] == list(whole.config.shapes())
    assert calls == [(i, 21) for i in range(21)]
    document = json.loads(json.dumps(asdict(found)))
    assert (document["agree"], document["factor"]) == (True, FACTOR)
    assert document["rows"][3]["index"] == list(found.rows[3].index)


def test_rtol_replaces_the_expected_error(whole, tmp_path):
    def edit(weights):
        weights[ATTN.format("o")] *= np.float32(1.001)
        weights[ATTN.format("q")] *= np.float32(1.0001)

    b = folder(tmp_path, edit=edit)
    assert compare_weights(whole, b, rtol=2e-3).agree
    found = compare_weights(whole, b, rtol=5e-5)
    assert (len(failing(found)), found.worst) == (2, "layer0.attn_wo")
    rounded = compare_weights(whole, folder(tmp_path, "c", dtype="BF16"), rtol=1e-4)
    assert {row.cause for row in failing(rounded).values()} == {"rounding explains the difference"}
    with pytest.raises(InputError, match="rtol"):
        compare_weights(whole, b, rtol=-1.0)


# --- Measures of single tensors ---------------------------------------------------------------


def distance(a, b):
    """Measure the distance of two tensors, or of two arrays stored in F32."""
    tensors = (own if isinstance(own, StoredTensor) else stored("w", own, "F32") for own in (a, b))
    return measure(*map(Values.of, tensors))


@pytest.mark.parametrize(("type", "factor"), [("BF16", 1.001), ("Q8_0", 1.003), ("Q4_0", 1.04)])
def test_a_scale_within_the_rounding_is_found(type, factor):
    array = np.random.default_rng(2).normal(size=(256, 256))
    found = distance(array, stored("w", array * factor, type))
    print(f"{found.relative_l2:.2e} against {found.expected:.2e}, scale {found.scale}")
    assert found.relative_l2 < FACTOR * found.expected
    assert not found.holds(0.0)


@pytest.mark.parametrize("type", ["Q8_0", "Q4_1", "MXFP4"])
def test_a_wrong_block_in_a_large_tensor_is_found(type):
    array = np.random.default_rng(2).normal(size=(4096, 64))
    rounded = stored("w", array, type)
    block = rounded.data.reshape(-1, rounded.encoding.block_bytes)[8001]
    assert distance(array, rounded).holds(0.0)
    if type == "MXFP4":
        block[0] += 1  # twice the scale
    else:
        block[-32 if type == "Q8_0" else -16 :] = 0
    found = distance(array, rounded)
    assert not found.holds(0.0)
    assert (found.index(found.block_at), found.blocks_off) == ((4000, 32), 1)


INTEGERS = {  # type -> start and end of the low bits in a block, and a mask that changes each integer by one
    "Q4_0": (2, 18, 0x11), "Q4_1": (4, 20, 0x11), "Q5_0": (6, 22, 0x11), "Q5_1": (8, 24, 0x11),
    "Q8_0": (2, 34, 0x01), "AprQ4": (2, 18, 0x11), "Q2_K": (16, 80, 0x55), "Q3_K": (32, 96, 0x55),
    "Q4_K": (16, 144, 0x11), "Q5_K": (48, 176, 0x11), "Q6_K": (0, 128, 0x11),
    "IQ4_NL": (2, 18, 0x11), "IQ4_XS": (8, 136, 0x11), "MXFP4": (1, 17, 0x11),
}  # fmt: skip


@pytest.mark.parametrize("type", some_of(INTEGERS, every=3))
def test_blocks_with_all_integers_off_by_one_are_found(type):
    start, stop, mask = INTEGERS[type]
    if type.endswith("K") or type.startswith(("IQ4", "MX")):
        blocks = random_blocks(type, (256, 1024), "rewritten").rows
    else:
        weights = {"w": np.random.default_rng(2).standard_normal((256, 1024)).astype(np.float32)}
        blocks = quantise(weights, type.replace("AprQ4", "Q4_0"))["w"].rows
    a = StoredTensor("w", ENCODINGS[type], (256, 1024), blocks.ravel())
    for every in (7, 200):
        b = replace(a, stored=a.stored.copy())
        b.stored.reshape(-1, a.encoding.block_bytes)[::every, start:stop] ^= np.uint8(mask)
        found = distance(a, b)
        print(f"{found.relative_l2:.3f} against {found.expected:.3f}, {found.rewritten} runs")
        assert found.relative_l2 < found.expected
        assert not found.holds(0.0)
        cause = find_cause("w", {"w": Values.of(a)}, Values.of(b), found, (64, 64))
        words = r"[\d,]+ run\(s\) of elements have the same scale but no integer in common; two .*"
        assert re.fullmatch(words, cause.told())


def rounded_otherwise(array, scaled):
    """Quantise to Q4_1 by another rule: half to even, and if `scaled` by the scale and minimum in float16."""
    x = array.reshape(-1, 32)
    m, d = x.min(axis=1, keepdims=True), np.ptp(x, axis=1, keepdims=True) / np.float32(15)
    kept = [part.astype(np.float16) for part in (d, m)]
    by, least = (part.astype(np.float32) for part in kept) if scaled else (d, m)
    q = np.clip(np.rint((x - least) / np.where(by == 0, 1, by)), 0, 15).astype(np.uint8)
    rows = np.hstack([*(part.view(np.uint8) for part in kept), q[:, :16] | q[:, 16:] << 4])
    return StoredTensor("w", ENCODINGS["Q4_1"], array.shape, rows.ravel())


TIES = [("normal", None), ("normal", "BF16"), ("mostly zeros", "F16"), ("of seven values", None)]


@pytest.mark.parametrize(("weights", "source"), TIES)
def test_other_quantisers_and_ties_do_not_count_as_rewritten(weights, source):
    rng = np.random.default_rng(4)
    array = rng.standard_normal((512, 512)).astype(np.float32)
    if weights == "mostly zeros":  # 0 lies halfway between two integers if the extremes are equally far away
        array = np.round(array * (rng.random(array.shape) < 0.2), 1)
    elif weights == "of seven values":
        array = rng.integers(-3, 4, array.shape).astype(np.float32)
    other = stored("w", array, source).read() if source else array
    makers = [stored("w", array, "Q4_1"), *(rounded_otherwise(other, scaled) for scaled in (False, True))]
    for a, b in combinations(makers, 2):
        found = distance(a, b)
        print(found.unequal / found.count, found.rewritten)
        assert found.rewritten == 0


def test_the_step_of_a_code_book_contains_the_rounding_of_scales():
    """The scale of the first run is -32 * 0.5, and the other scales were rounded to 0."""
    block = np.zeros(136, np.uint8)  # code 0 stands for -127, and code 1 for -104
    block[:4] = *np.array([0.5], np.float16).view(np.uint8), 0b10101000, 0b10101010
    steps = step_tensor(StoredTensor("w", ENCODINGS["IQ4_XS"], (256,), block)).read()
    rounding = 0.5 * 67.438  # the RMS of the code book
    np.testing.assert_allclose(steps[:32], np.hypot(16 * 23, rounding), rtol=1e-4)
    np.testing.assert_allclose(steps[32:], rounding, rtol=1e-4)


@pytest.mark.parametrize("exponent", [0, 1, 128, 253])
def test_the_step_of_mxfp4_depends_only_on_the_distances_to_the_neighbours(exponent):
    """Round numbers that are spread evenly between the middles around each number of the code book."""
    block = np.array([exponent, *range(0x10, 0x20)], np.uint8)  # all codes, then ones
    steps = step_tensor(StoredTensor("w", ENCODINGS["MXFP4"], (32,), block)).read()[:8]
    positive = np.array([0, 1, 2, 3, 4, 6, 8, 12, 16.0])
    for k, step in enumerate(steps):
        low, high = positive[k - 1] if k else -1.0, positive[k + 1]
        errors = np.linspace((low - positive[k]) / 2, (high - positive[k]) / 2, 100_001)
        expected = np.sqrt(12 * np.square(errors).mean()) * 2.0 ** (exponent - 128)
        np.testing.assert_allclose(step, expected, rtol=1e-4)


def test_a_tie_of_mxfp4_is_not_damage():
    """Each pair of neighbours is one step apart, so that another quantiser may take the other neighbour."""
    blocks = random_blocks("MXFP4", (64, 1024), "ties").rows
    for code in (*range(7), *range(8, 15)):
        a, b = (StoredTensor("w", ENCODINGS["MXFP4"], (64, 1024), blocks.flatten()) for _ in range(2))
        a.stored[1], b.stored[1] = code, code + 1
        found = distance(a, b)
        print(f"{code}: {found.most_steps:.3f} steps")
        assert found.holds(0.0)
    b.stored[1] = code - 5
    assert not distance(a, b).holds(0.0)


def test_an_element_beyond_the_first_chunk_is_located():
    a = np.random.default_rng(2).normal(size=(9000, 32)).astype(np.float32)
    b = a.copy()
    b[8765, 4] += 1
    found = distance(a, b)
    assert (found.index(found.at), found.unequal) == ((8765, 4), 1)


@pytest.mark.parametrize("scale", [0.01, -0.01])
def test_a_type_with_a_scale_per_tensor_has_that_step(scale):
    rng = np.random.default_rng(2)
    q = rng.integers(-127, 128, (64, 64)).astype(np.int8)
    tensor = StoredTensor("w", ENCODINGS["AprQ8"], (64, 64), q.view(np.uint8).ravel(), scale=scale)
    source = (q + rng.uniform(-0.5, 0.5, q.shape)) * scale
    found = distance(source, tensor)
    assert found.relative_l2 / found.expected == pytest.approx(1, abs=0.05)
    assert found.holds(0.0)


@pytest.mark.parametrize("type", ["F32", "BF16", "AprQ8"])
def test_a_transposed_matrix_is_measured_like_a_plain_one(type):
    rng = np.random.default_rng(2)
    blocks = rng.integers(0, 56, (70, 90, ENCODINGS[type].block_bytes), np.uint8)  # finite in every type
    scale = -0.5 if type == "AprQ8" else 1.0
    turned = StoredTensor("w", ENCODINGS[type], (70, 90), blocks.ravel(), scale=scale).transposed()
    plain = replace(turned, stored=np.ascontiguousarray(turned.stored).ravel())
    np.testing.assert_array_equal(step_tensor(turned).read(), step_tensor(plain).read())
    np.testing.assert_array_equal(step_tensor(turned).rows(3, 9), step_tensor(plain).rows(3, 9))
    other = plain.read() * (1 + rng.uniform(-1e-3, 1e-3, plain.shape))
    assert vars(distance(turned, other)) == vars(distance(plain, other))
    assert distance(turned, plain).unequal == 0


# --- microGPT --------------------------------------------------------------------------------


def test_a_microgpt_in_two_precisions_agrees_except_for_a_wrong_weight(deep):
    model, narrow = deep.model, deep.model.params.copy(np.float32)
    found = compare_weights(model, Model(narrow, model.tokenizer, "float32"))
    assert (found.agree, [row.name for row in found.rows]) == (True, list(model.config.shapes()))
    assert {(row.type_a, row.type_b) for row in found.rows} == {("F64", "F32")}
    params = model.params.copy()
    params["layer0.attn_wo"][2, 5] += 1e-6
    row = failing(compare_weights(model, Model(params, model.tokenizer, "changed")))["layer0.attn_wo"]
    assert (row.index, row.unequal) == ((2, 5), 1)


def test_a_deeper_microgpt_has_more_parameters_and_a_decoder_is_refused(emma, whole):
    deep = Model(Parameters.random(Config(n_layer=2)), emma.tokenizer, "deep")
    assert compare_weights(emma, deep).only_b == tuple(n for n in deep.config.shapes() if "layer1" in n)
    with pytest.raises(InputError, match=r"a microgpt .* and a decoder"):
        compare_weights(emma, whole)


# --- Size ------------------------------------------------------------------------------------


def test_memory_does_not_grow_with_the_tensors(tmp_path):
    config = WIDE | {"vocab_size": 100_000, "tie_word_embeddings": True}  # 12.8 MB in float32
    a, b = folder(tmp_path, config=config), folder(tmp_path, "b", config, dtype="BF16")
    tracemalloc.start()
    assert compare_weights(a, b).agree
    peak = tracemalloc.get_traced_memory()[1] / 1e6
    tracemalloc.stop()
    print(f"{peak:.1f} MB")
    assert peak < 12
