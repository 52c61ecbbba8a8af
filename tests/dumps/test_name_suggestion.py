"""The map drafted for a folder of arrays without names, held against the names that they had."""

import sys
from collections import Counter
from contextlib import ExitStack
from itertools import pairwise, permutations

import numpy as np
import pytest
from support.faulty_engine import rounded_to
from support.sweeps import some_of
from support.tiny_models import TOKENS

from microgpt_trace import load, trace
from microgpt_trace.dumps.alignment import align, assign
from microgpt_trace.dumps.formats import open_recording
from microgpt_trace.dumps.map_writing import to_toml
from microgpt_trace.dumps.mapping import read_map
from microgpt_trace.dumps.name_suggestion import suggest, unplaced
from microgpt_trace.dumps.recorded import Leftover, Recorded
from microgpt_trace.dumps.recording import Recording
from microgpt_trace.dumps.sketches import Stack, sketch

HEADS = ("q", "k", "v", "q_rope", "k_rope", "context")


def values_of(model, text=None):
    """The model's own values by event, in order of computation."""
    inputs = {"text": text} if text else {"tokens": TOKENS}
    run = trace(model, values=True, **inputs)
    return {event.name: run[event.name] for event in run}


@pytest.fixture(scope="module")
def decoder(decoder_folder):
    model = load(decoder_folder("llama_gqa"))
    return model, values_of(model)


def recording_of(files, known=()):
    def recorded(name):
        return Recorded(name, files[name].shape, lambda: files[name])

    leftovers = tuple(Leftover(recorded(name), "no name we know") for name in files if name not in known)
    return Recording("dump", ".npy files", {n: recorded(n) for n in known}, leftovers=leftovers)


def numbered(arrays):
    """Files t0.npy, t1.npy ... (t10 after t9) of pairs (event or None, array), and their events."""
    files = {f"t{i}.npy": array for i, (_, array) in enumerate(arrays)}
    return dict(sorted(files.items())), {f"t{i}": event for i, (event, _) in enumerate(arrays) if event}


def drafted(decoder, files):
    model, own = decoder
    length = next(iter(own.values())).shape[0]
    return suggest(recording_of(files), model, own.items(), model.plan.shapes(length))


def check(decoder, arrays):
    """Every array is placed right, and nothing else is; returns the suggestions."""
    files, truth = numbered(arrays)
    found = drafted(decoder, files)
    assert {one.source: one.event for one in found} == truth
    return found


def noise(shape, seed=0, scale=1.0):
    return (scale * np.random.default_rng(seed).standard_normal(shape)).astype(np.float32)


def run_with(model, name, replacement):
    with model.hooks.subscribe(lambda event, value: replacement(value), name):
        return values_of(model)


# --- Values that agree -----------------------------------------------------------------------


@pytest.mark.parametrize("case", ["llama_gqa", "llama_mha_bias", "qwen2", "qwen3"])
def test_a_clean_dump_is_placed_by_its_values(decoder_folder, case):
    model = load(decoder_folder(case))
    found = check((model, values_of(model)), list(values_of(model).items()))
    assert {one.why for one in found} == {"values"}
    assert all(one.sure and one.similarity == 1 for one in found)


def test_a_clean_dump_of_a_microgpt_is_placed(emma):
    own = values_of(emma, "emma")
    assert all(one.sure for one in check((emma, own), list(own.items())))


@pytest.mark.parametrize("seed", range(5))
def test_arrays_that_are_missing_or_no_events_change_nothing(decoder, seed):
    rng = np.random.default_rng(seed)
    arrays = [item for item in decoder[1].items() if rng.random() > 0.3]
    for i, shape in enumerate([(7, 32), (7, 48), (7, 32), (7, 16), (4, 7, 7), (5, 9), (3,)]):
        arrays.insert(rng.integers(len(arrays)), (None, noise(shape, i)))
    check(decoder, arrays)


@pytest.mark.parametrize(("layout", "axes"), [("THD", (0, 1, 2)), ("HTD", (1, 0, 2))])
def test_heads_are_found_in_both_layouts(decoder, layout, axes):
    def cut(event, array):
        kind = event.rpartition(".")[2]
        return array.reshape(7, -1, 8).transpose(axes)[None] if kind in HEADS else array

    found = check(decoder, [(event, cut(event, array)) for event, array in decoder[1].items()])
    turned = {one.layout for one in found if one.event.rpartition(".")[2] in HEADS}
    assert turned == {layout}


def test_columns_and_last_rows_are_found(decoder):
    own = decoder[1]
    arrays = [("embed.tok", own["embed.tok"].T), ("logits", own["logits"][-1:]), ("probs", own["probs"][-1])]
    assert [one.layout for one in check(decoder, arrays)] == ["CT", "last", "last"]


def test_values_rounded_to_bf16_agree(decoder):
    found = check(decoder, [(event, rounded_to(array, "bf16")) for event, array in decoder[1].items()])
    assert {one.why for one in found} == {"values"}
    assert all(0.99 < one.similarity < 1 for one in found if one.event.endswith("residual"))


def test_values_beat_the_order_of_the_names(decoder):
    arrays = list(decoder[1].items())
    np.random.default_rng(0).shuffle(arrays)
    check(decoder, arrays)


def test_a_copy_of_an_array_is_left_over(decoder):
    own = decoder[1]
    files = {"a.npy": own["layer0.mlp.residual"], "b.npy": own["layer0.mlp.residual"]}
    found = drafted(decoder, files)
    assert [one.event for one in found] == ["layer0.mlp.residual"]
    assert len(unplaced(found, recording_of(files))) == 1


def test_an_array_with_one_nan_is_still_known(decoder):
    broken = decoder[1]["layer1.mlp.gate"].copy()
    broken[2, 3] = np.nan
    check(decoder, [("layer1.mlp.gate", broken)])


def test_events_that_are_known_by_name_are_not_suggested(decoder):
    model, own = decoder
    files = {"embed.tok": own["embed.tok"], "t0": own["embed.tok"], "t1": own["layer0.attn.norm"]}
    found = suggest(recording_of(files, ["embed.tok"]), model, own.items(), model.plan.shapes(7))
    assert [(one.event, one.source) for one in found] == [("layer0.attn.norm", "t1")]


# --- After a fault ---------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
def test_what_follows_a_fault_is_placed_by_order(decoder, seed):
    def shuffled(value):
        return np.random.default_rng(seed).permutation(value.ravel()).reshape(value.shape)

    faulty = run_with(decoder[0], "layer0.attn.q_rope", shuffled)
    found = {one.event: one for one in check(decoder, list(faulty.items()))}
    assert found["layer0.attn.q_rope"].why == "order"
    assert not found["layer0.attn.q_rope"].sure
    assert found["layer0.attn.k_rope"].why == "values"


def test_noise_after_a_fault_is_placed_by_order_and_shape_alone(decoder):
    arrays = [
        (event, array if i < 4 else noise(array.shape, i, array.std()))
        for i, (event, array) in enumerate(decoder[1].items())
    ]
    found = check(decoder, arrays)
    assert sum(one.sure for one in found if one.why == "order") == 0


def test_a_scaled_event_is_sure_by_its_cosine(decoder):
    faulty = run_with(decoder[0], "layer1.attn.q", lambda value: value * np.float32(1.5))
    (found,) = (one for one in check(decoder, list(faulty.items())) if one.event == "layer1.attn.q")
    assert (found.why, found.sure) == ("order", True)
    assert found.similarity > 0.95


def test_rows_in_gguf_order_are_placed_where_they_belong_but_not_put_right(decoder):
    own = decoder[1]
    q = own["layer0.attn.q"]
    pairs = q.reshape(7, 4, 2, 4).swapaxes(2, 3).reshape(q.shape)
    arrays = [(event, pairs if event == "layer0.attn.q" else array) for event, array in own.items()]
    (found,) = (one for one in check(decoder, arrays) if one.why == "order")
    assert found.event == "layer0.attn.q"
    assert not found.sure


def test_noise_before_agreeing_values_is_not_placed(decoder):
    arrays = [item for item in decoder[1].items() if item[0] != "layer0.attn.out"]
    check(decoder, [*arrays[:10], (None, noise((7, 32))), *arrays[10:]])


def test_an_event_that_fits_as_well_is_named(decoder):
    own = decoder[1]
    found = drafted(decoder, {"t0": own["embed.tok"], "t1": noise((7, 48), 1)})
    assert found[1].also.rpartition(".")[2] in ("gate", "up", "act", "hidden")


def test_names_that_count_layers_place_what_values_do_not(decoder):
    own = decoder[1]
    files = {f"{kind}_x{1 + i}.npy": own[f"layer{i}.{event}"] for i in (0, 1) for kind, event in (
        ("zz", "attn.norm"), ("mm", "attn.out"), ("aa", "mlp.down"))}  # fmt: skip
    files["mm_x2.npy"] = noise((7, 32))
    found = {one.event: one for one in drafted(decoder, files)}
    assert len(found) == 6
    assert (found["layer1.attn.out"].source, found["layer1.attn.out"].why) == ("mm_x2", "name")


# --- Values that are not finite, or in another order -------------------------------------------


@pytest.mark.parametrize("name", ["layer0.attn.scores", "layer1.attn.weights", "layer1.attn.q"])
def test_nan_agrees_with_nothing(decoder, name):
    own = decoder[1]
    files = {"t0": own["embed.tok"], "t1": np.full_like(own[name], np.nan), "t2": own["logits"]}
    found = drafted(decoder, files)
    assert {one.source: one.why for one in found} | {"t1": "order"} == {
        "t0": "values",
        "t1": "order",
        "t2": "values",
    }
    text = to_toml(found, (), recording_of(files), None)
    lines = [line for line in text.splitlines() if '"t1"' in line]
    assert all(line.endswith("by order; no value is finite on both sides") for line in lines)


def test_how_much_is_not_finite_is_said(decoder):
    own = decoder[1]
    some = own["embed.tok"].copy()
    some[2:] = np.nan
    files = {"t0": some, "t1": own["logits"]}
    text = to_toml(drafted(decoder, files), (), recording_of(files), None)
    assert "# values agree, 0.0e+00; 71% of them not finite" in text


def test_crossed_values_are_said_to_be_out_of_order(decoder):
    order = ("embed.tok", "layer0.attn.norm", "layer0.attn.q", "layer0.attn.v", "layer0.attn.k",
             "layer0.attn.q_rope", "layer0.attn.k_rope")  # fmt: skip
    files, truth = numbered([(event, decoder[1][event]) for event in order])
    found = drafted(decoder, files)
    assert {one.source: one.event for one in found} == truth
    (crossed,) = (one.event for one in found if one.out_of_order)
    assert crossed in ("layer0.attn.k", "layer0.attn.v")
    assert "; out of the dump's order" in to_toml(found, (), recording_of(files), None)


# --- Fused tensors ---------------------------------------------------------------------------


@pytest.mark.parametrize("case", ["llama_gqa", "qwen3"])  # of qwen3's q, k and v are as wide as gate and up
def test_fused_products_are_sliced(decoder_folder, case):
    model = load(decoder_folder(case))
    own = values_of(model)
    qkv = np.concatenate([own[f"layer1.attn.{n}"] for n in "qkv"], axis=1)
    both = np.concatenate([own["layer1.mlp.gate"], own["layer1.mlp.up"]], axis=1)
    found = drafted((model, own), {"t0.npy": qkv, "t1.npy": both[None]})
    q, k = own["layer1.attn.q"].shape[1], own["layer1.attn.k"].shape[1]
    assert {one.event: one.source for one in found} == {
        "layer1.attn.q": f"t0[:, :{q}]",
        "layer1.attn.k": f"t0[:, {q}:{q + k}]",
        "layer1.attn.v": f"t0[:, {q + k}:]",
        "layer1.mlp.gate": "t1[:, :, :48]",
        "layer1.mlp.up": "t1[:, :, 48:]",
    }


# --- Names that count layers -----------------------------------------------------------------

OWN_NAMES = {
    "attn.norm": "ln1", "attn.q": "Q", "attn.k": "K", "attn.v": "V", "attn.out": "attnout", "mlp.norm": "ln2",
    "mlp.gate": "ffg", "mlp.up": "ffu", "mlp.act": "act", "mlp.down": "ffd", "mlp.residual": "x",
}  # fmt: skip
GLOBAL = {"embed.tok": "wte", "final.norm": "lnf", "logits": "head"}


@pytest.fixture(scope="module")
def deeper(decoder_folder):
    model = load(decoder_folder("llama_gqa", num_hidden_layers=6))
    return model, values_of(model)


def engine_names(values, first=0):
    """What an engine of other names leaves of these events, in the order of the alphabet."""
    files, truth = {}, {}
    for event, array in values.items():
        layer, _, kind = event.partition(".")
        name = GLOBAL.get(event)
        if kind in OWN_NAMES:
            name = f"blk{int(layer.removeprefix('layer')) + first}_{OWN_NAMES[kind]}"
        if name:
            files[f"{name}.npy"], truth[name] = array, event
    return dict(sorted(files.items())), truth


def check_names(decoder, values, first=0):
    """Every tensor of an engine of other names has its line, and none is undecided."""
    files, truth = engine_names(values, first)
    found = drafted(decoder, files)
    assert {one.source: one.event for one in found} == truth
    assert [one.source for one in found if one.also] == []
    return found


def swapped_halves(value):
    return np.roll(value, value.shape[-1] // 2, axis=-1)


def with_swapped(model, event, other):
    """The values of a model of which two products are exchanged: weights loaded the wrong way."""
    own = values_of(model)
    with ExitStack() as stack:
        for name, value in ((event, own[other]), (other, own[event])):
            stack.enter_context(model.hooks.subscribe(lambda _, __, value=value: value, name))
        return values_of(model)


@pytest.mark.parametrize("first", [0, 1])
def test_names_of_ones_own_are_placed(deeper, first):
    assert {one.why for one in check_names(deeper, deeper[1], first)} == {"values"}


def test_names_of_a_bf16_engine_are_placed_although_late_layers_are_off(deeper):
    rng = np.random.default_rng(0)
    drift = {
        event: rounded_to(
            array * (1 + rng.normal(0, 0.004 * 2 ** int(event[5]), array.shape)).astype(np.float32)
            if event.startswith("layer")
            else array,
            "bf16",
        )
        for event, array in deeper[1].items()
    }
    found = check_names(deeper, drift)
    assert {one.why for one in found if one.event.startswith("layer5")} == {"name"}


@pytest.mark.parametrize("layer", some_of([1, 0], every=2))
@pytest.mark.parametrize("kind", ["attn.q_rope", "attn.context", "attn.norm", "mlp.norm", "attn.v"])
def test_names_are_placed_after_a_fault(deeper, layer, kind):
    check_names(deeper, run_with(deeper[0], f"layer{layer}.{kind}", swapped_halves))


@pytest.mark.parametrize("kind", ["attn.context", "attn.norm"])
def test_names_are_placed_where_every_layer_has_the_fault(deeper, kind):
    check_names(deeper, run_with(deeper[0], f"*.{kind}", swapped_halves))


@pytest.mark.parametrize("layer", [0, 1, 3])
def test_gate_and_up_swapped_in_one_layer_keep_their_names(deeper, layer):
    check_names(deeper, with_swapped(deeper[0], f"layer{layer}.mlp.gate", f"layer{layer}.mlp.up"))


@pytest.mark.parametrize("seed", range(4))
def test_names_of_which_a_third_is_missing_are_placed(deeper, seed):
    rng = np.random.default_rng(seed)
    faulty = run_with(deeper[0], "layer0.attn.context", swapped_halves)
    some = {event: array for event, array in faulty.items() if rng.random() > 0.3}
    files, truth = engine_names(some)
    assert all(truth[one.source] == one.event for one in drafted(deeper, files) if not one.also)


def test_a_module_and_the_last_one_in_it_are_one_event(deeper):
    files, truth = engine_names(deeper[1])
    files |= {f"blk{i}_mlp.npy": deeper[1][f"layer{i}.mlp.down"] for i in range(6)}
    found = drafted(deeper, files)
    assert {one.source: one.event for one in found} == truth
    assert [left.recorded.source for left in unplaced(found, recording_of(files))] == [
        f"blk{i}_mlp.npy" for i in range(6)]  # fmt: skip


def test_a_copy_of_some_layers_is_left_over_after_a_fault_too(deeper):
    faulty = run_with(deeper[0], "layer0.attn.context", swapped_halves)
    files, truth = engine_names(faulty)
    files |= {f"blk{i}_mlp.npy": faulty[f"layer{i}.mlp.down"] for i in (1, 3, 4)}
    assert {one.source: one.event for one in drafted(deeper, files)} == truth


def test_the_inputs_of_layers_are_the_outputs_of_those_before(deeper):
    own = deeper[1]
    files = {f"stream{i + 1}.npy": own[f"layer{i}.mlp.residual"] for i in range(5)}
    files |= {"stream0.npy": own["embed.tok"]} | {f"up{i}.npy": own[f"layer{i}.mlp.up"] for i in range(6)}
    found = {one.source: one.event for one in drafted(deeper, files)}
    assert (found["stream0"], found["stream3"], found["up3"]) == (
        "embed.tok", "layer2.mlp.residual", "layer3.mlp.up")  # fmt: skip


def test_values_tell_that_names_count_from_one(deeper):
    values = {event: array for event, array in deeper[1].items() if not event.startswith("layer5")}
    check_names(deeper, values, first=1)


def test_a_pattern_that_fits_another_tensor_too_is_written_layer_by_layer(deeper):
    files = {f"blk{i}_up.npy": deeper[1][f"layer{i}.mlp.up"] for i in range(6)}
    files["blk77_up.npy"] = noise((7, 48))
    text = to_toml(drafted(deeper, files), (), recording_of(files), None)
    assert parsed(text)["events"] == {f"layer{i}.mlp.up": f"blk{i}_up" for i in range(6)}


def test_a_norm_that_does_nothing_is_unsure(deeper):
    values = deeper[1] | {"final.norm": deeper[1]["layer5.mlp.residual"]}
    found = {one.source: one for one in drafted(deeper, engine_names(values)[0])}
    assert (found["lnf"].event, found["lnf"].also) == ("final.norm", "layer5.mlp.residual")


def test_fused_names_are_sliced_alike_in_all_layers(deeper):
    faulty = run_with(deeper[0], "layer1.attn.context", swapped_halves)
    files = {f"blk{i}_qkv.npy": np.hstack([faulty[f"layer{i}.attn.{n}"] for n in "qkv"]) for i in range(6)}
    found = drafted(deeper, files)
    assert len(found) == 18
    assert parsed(to_toml(found, (), recording_of(files), None))["events"] == {
        "layer{i}.attn.q": "blk{i}_qkv[:, :32]",
        "layer{i}.attn.k": "blk{i}_qkv[:, 32:48]",
        "layer{i}.attn.v": "blk{i}_qkv[:, 48:]",
    }


def test_a_pattern_is_one_line_that_says_in_how_many_layers_values_agree(deeper, tmp_path):
    files, truth = engine_names(run_with(deeper[0], "layer2.attn.out", swapped_halves))
    found, recording = drafted(deeper, files), recording_of(files)
    text = to_toml(found, unplaced(found, recording), recording, TOKENS)
    (line,) = (line for line in text.splitlines() if line.startswith('"layer{i}.mlp.up"'))
    assert '= "blk{i}_ffu"' in line
    assert "values agree in 2 of 6 layers; cosine 0." in line
    assert text.endswith("# events: 69 placed, 0 unsure; tensors not placed: 0\n")
    (tmp_path / "map.toml").write_text(text)
    lines = read_map(tmp_path / "map.toml").assigned(list(files), "dump")
    assert {line.source.removesuffix(".npy"): line.event for line in lines} == truth


def test_names_that_count_from_one_have_lines_of_their_own(deeper):
    files, _ = engine_names(deeper[1], first=1)
    text = to_toml(drafted(deeper, files), (), recording_of(files), None)
    assert parsed(text)["events"]["layer0.mlp.up"] == "blk1_ffu"
    assert "{i}" not in text


def test_each_array_is_read_twice_at_most(deeper):
    files, _ = engine_names(run_with(deeper[0], "layer0.attn.context", swapped_halves))
    reads = Counter()

    def recorded(name):
        return Recorded(name, files[name].shape, lambda: reads.update([name]) or files[name])

    leftovers = tuple(Leftover(recorded(name), "") for name in files)
    model, own = deeper
    suggest(Recording("dump", "", {}, leftovers=leftovers), model, own.items(), model.plan.shapes(7))
    assert (reads["blk0_K.npy"], reads["blk5_K.npy"]) == (2, 1)  # K has no width of others side by side


# --- TOML ------------------------------------------------------------------------------------


def parsed(text):
    if sys.version_info < (3, 11):
        pytest.skip("tomllib comes with Python 3.11")
    import tomllib

    return tomllib.loads(text)


def test_the_draft_is_toml(decoder):
    own = decoder[1]
    q = own["layer0.attn.q_rope"].reshape(7, 4, 8).swapaxes(0, 1)
    files = {'a "b"\\\x7f\n.npy': own["embed.tok"], "q.npy": q, "odd.npy": noise((5, 7))}
    found, recording = drafted(decoder, files), recording_of(files)
    text = to_toml(found, unplaced(found, recording), recording, TOKENS)
    assert parsed(text) == {
        "tokens": list(TOKENS),
        "events": {
            "embed.tok": 'a "b"\\\x7f\n',
            "layer0.attn.q_rope": {"from": "q", "layout": "HTD"},
        },
    }
    assert '# not placed: "odd" [5, 7]' in text
    assert "# values agree, 0.0e+00" in text


def test_what_has_no_numbers_is_passed_over_and_named(decoder, tmp_path):
    model, own = decoder
    np.save(tmp_path / "t0.npy", own["embed.tok"])
    np.save(tmp_path / "t1.npy", np.ones((7, 32), complex))
    np.save(tmp_path / "t2.npy", np.ones((7, 32), bool))
    recording = open_recording(tmp_path)
    found = suggest(recording, model, own.items(), model.plan.shapes(7))
    assert ("embed.tok", "t0") in [(one.event, one.source) for one in found]
    assert "t1" not in [one.source for one in found]
    text = to_toml(found, unplaced(found, recording), recording, None)
    assert '# not placed: "t1" [7, 32]: numbers of type complex128, which no event has' in text


def test_the_draft_is_read_as_a_map(decoder, tmp_path):
    own = decoder[1]
    files = {"odd[1].npy": own["embed.tok"], "qkv.npy": np.hstack([own[f"layer0.attn.{n}"] for n in "qkv"])}
    found = drafted(decoder, files)
    (tmp_path / "map.toml").write_text(to_toml(found, (), recording_of(files), TOKENS))
    lines = read_map(tmp_path / "map.toml").assigned(list(files), "dump")
    assert [(line.event, line.source) for line in lines] == [
        ("embed.tok", "odd[1].npy"), *((f"layer0.attn.{n}", "qkv.npy") for n in "qkv")]  # fmt: skip
    v = next(line for line in lines if line.event == "layer0.attn.v")
    assert np.array_equal(files["qkv.npy"][v.index], own["layer0.attn.v"])


def test_the_cosine_of_two_numbers_is_not_taken(decoder):
    (found,) = drafted(decoder, {"t0": decoder[1]["loss"] * np.float32(1.6)})
    assert (found.event, found.sure) == ("loss", False)
    assert found.similarity == pytest.approx(0.4, abs=1e-5)


def test_what_is_undecided_is_commented_out(decoder):
    files = {"t0": noise((7, 48), 1)}
    found, recording = drafted(decoder, files), recording_of(files)
    text = to_toml(found, unplaced(found, recording), recording, None)
    assert parsed(text) == {"events": {}}
    assert f"unsure: also fits {found[0].also}" in text


def test_a_square_array_is_written_with_its_layout(decoder_folder):
    model = load(decoder_folder("llama_gqa", intermediate_size=7))
    own = values_of(model)
    files = {"t0": own["layer0.mlp.up"]}
    found = drafted((model, own), files)
    assert parsed(to_toml(found, (), recording_of(files), None))["events"] == {
        "layer0.mlp.up": {"from": "t0", "layout": "TC"}
    }


# --- Parts -----------------------------------------------------------------------------------


def test_alignment_finds_the_best_of_all_increasing_pairings():
    scores = np.random.default_rng(3).integers(0, 9, (4, 5)).astype(float)

    def best(rows, columns):
        if not rows or not columns:
            return 0
        pair = best(rows - 1, columns - 1) + scores[rows - 1, columns - 1]
        return max(pair, best(rows - 1, columns), best(rows, columns - 1))

    pairs = align(scores)
    assert sum(scores[pair.row, pair.column] for pair in pairs) == best(4, 5)
    assert all(a.row < b.row and a.column < b.column for a, b in pairwise(pairs))


@pytest.mark.parametrize("shape", [(3, 4), (4, 3), (1, 1), (4, 4)])
def test_assignment_finds_the_best_of_all_pairings(shape):
    for seed in range(20):
        scores = np.random.default_rng(seed).integers(0, 5, shape).astype(float)
        wide = np.hstack([scores, np.zeros((shape[0], shape[0]))])
        best = max(
            sum(wide[range(len(wide)), list(way)]) for way in permutations(range(wide.shape[1]), len(wide))
        )
        assert sum(scores[pair.row, pair.column] for pair in assign(scores)) == best


def test_the_loss_of_an_assignment_is_that_of_the_next_best_one():
    first, second = assign(np.array([[3.0, 2.5], [2.0, 0.0]]))
    assert [(pair.row, pair.column, pair.other, pair.loss) for pair in (first, second)] == [
        (0, 1, 0, 1.5), (1, 0, -1, 1.5)]  # fmt: skip


def test_the_loss_of_an_alignment_is_that_of_the_next_best_column():
    (pair,) = align(np.array([[1.0, 3.0, 2.5]]))
    assert (pair.column, pair.other, pair.loss) == (1, 2, 0.5)


def test_one_huge_channel_does_not_make_two_streams_alike():
    a, b = noise((7, 32), 1), noise((7, 32), 2)
    a[:, 3] = b[:, 3] = 1e4
    found = Stack.of([sketch(b, False)]).compare(sketch(a, False))
    assert found.distance[0] > 0.5 > found.cosine[0]


def test_scores_above_the_diagonal_do_not_count():
    scores = noise((4, 7, 7))
    masked = np.where(np.tri(7, dtype=bool), scores, -np.inf)
    assert Stack.of([sketch(scores, True)]).compare(sketch(masked, True)).distance[0] == 0
