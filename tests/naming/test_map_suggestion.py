"""The map suggested for a dump with unknown names, checked against the events of its arrays."""

import numpy as np
import pytest
from support.comparing import inputs_of, values_of, with_nan
from support.dump_writing import numbers
from support.faulty_engine import rounded_to
from support.real_model import SMOLLM2, needs_smollm2
from support.sweeps import some_of
from support.tiny_models import TOKENS

from microgpt_trace import load
from microgpt_trace.comparison.map_drafting import drafted_map
from microgpt_trace.dumps.formats import open_recording
from microgpt_trace.dumps.layouts import Leftover, Recorded
from microgpt_trace.dumps.recording import Recording
from microgpt_trace.naming.user_map import read_map

HEADS = ("q", "k", "v", "q_rope", "k_rope", "context")


@pytest.fixture(scope="module")
def model(decoder_folder):
    return load(decoder_folder("llama_gqa"))


@pytest.fixture(scope="module")
def own(model):
    return values_of(model)


@pytest.fixture
def drafted(tmp_path):
    """A function that drafts a map for arrays by name, and returns its text and its lines."""

    def draft(model, arrays, known=()):
        recorded = {
            name: Recorded(f"{name}.npy", array.shape, lambda array=array: array)
            for name, array in arrays.items()
        }
        leftovers = tuple(Leftover(recorded[name], "no name we know") for name in arrays if name not in known)
        dump = Recording("dump", ".npy files", {name: recorded[name] for name in known}, leftovers=leftovers)
        tokens = None if model.origin == str(SMOLLM2) else inputs_of(model).get("tokens")
        text = drafted_map([dump, model], inputs_of(model).get("text"), tokens)
        print(text)
        path = tmp_path / "map.toml"
        path.write_text(text, encoding="utf-8")
        return text, read_map(path).match([f"{name}.npy" for name in arrays], "dump")

    return draft


def found_in(lines):
    return {line.source.removesuffix(".npy"): line.event for line in lines}


def run_with(model, name, change):
    with model.hooks.subscribe(lambda event, value: change(value), name):
        return values_of(model)


# --- Arrays with numbers as names --------------------------------------------------------------


def check(drafted, model, arrays):
    """Name pairs of (event or None, array) t0, t1 ..., and check that the draft has exactly these events.

    Returns the draft's text and lines.
    """
    text, lines = drafted(model, {f"t{i}": array for i, (_, array) in enumerate(arrays)})
    assert found_in(lines) == {f"t{i}": event for i, (event, _) in enumerate(arrays) if event}
    return text, lines


@pytest.mark.parametrize("case", ["llama_mha_bias", "qwen2", "qwen3", "microgpt"])
def test_places_a_clean_dump_by_its_values(decoder_folder, emma, drafted, case):
    model = emma if case == "microgpt" else load(decoder_folder(case))
    text, lines = check(drafted, model, list(values_of(model).items()))
    assert text.count("# values agree, 0.0e+00") == len(lines)
    assert f"# events: {len(lines)} placed; tensors not placed: 0" in text


def changed(own, event, change):
    """Return all events in order, with one of them changed."""
    return list((own | {event: change(own[event])}).items())


def with_strangers(own):
    """Drop a third of the events, and insert arrays that are no events."""
    rng = np.random.default_rng(1)
    arrays = [item for item in own.items() if rng.random() > 0.3]
    for i, shape in enumerate([(7, 32), (7, 48), (7, 32), (7, 16), (4, 7, 7), (5, 9), (3,)]):
        arrays.insert(rng.integers(len(arrays)), (None, numbers(*shape, seed=i)))
    return arrays


def shuffled(own):
    arrays = list(own.items())
    np.random.default_rng(0).shuffle(arrays)
    return arrays


def in_gguf_order(value):
    return value.reshape(7, 4, 2, 4).swapaxes(2, 3).reshape(value.shape)


def crossed(own):
    kinds = ("attn.norm", "attn.q", "attn.v", "attn.k", "attn.q_rope", "attn.k_rope")
    return [(name, own[name]) for name in ("embed.tok", *(f"layer0.{kind}" for kind in kinds))]


def noise_from_the_fifth_on(own):
    items = list(own.items())
    noise = [(event, a.std() * numbers(*a.shape, seed=i)) for i, (event, a) in enumerate(items[4:])]
    return items[:4] + noise


def mostly_nan(own):
    return [("embed.tok", np.where(np.arange(7)[:, None] > 1, np.nan, own["embed.tok"]))]


DUMPS = {  # a change of the values, and words of the draft
    "strangers": (with_strangers, "tensors not placed: 7"),
    "names in no order": (shuffled, "# values agree, 0.0e+00"),
    "bf16": (lambda own: [(event, rounded_to(a, "bf16")) for event, a in own.items()], "# values agree, 1."),
    "one NaN": (
        lambda own: changed(own, "layer1.mlp.gate", with_nan),
        "0.0e+00; 0% of the values are not finite",
    ),
    "most is NaN": (mostly_nan, "# values agree, 0.0e+00; 71% of the values are not finite"),
    "GGUF's order": (lambda own: changed(own, "layer0.attn.q", in_gguf_order), "by name; values differ"),
    "k and v crossed": (crossed, "values agree, 0.0e+00"),
    "noise from the fifth on": (noise_from_the_fifth_on, "by order; values differ"),
    "a number": (lambda own: [("loss", own["loss"] * np.float32(1.6))], "values differ by 0.6"),
}


@pytest.mark.parametrize("what", DUMPS)
def test_places_changed_values(drafted, model, own, what):
    arrays_of, words = DUMPS[what]
    assert words in check(drafted, model, arrays_of(own))[0]


@pytest.mark.parametrize(("layout", "axes"), [("THD", (0, 1, 2)), ("HTD", (1, 0, 2))])
def test_finds_layouts(drafted, model, own, layout, axes):
    stored = {"embed.tok": own["embed.tok"].T, "logits": own["logits"][-1:], "probs": own["probs"][-1]}
    expected = {"embed.tok": "CT", "logits": "last", "probs": "last"}
    for event, array in own.items():
        if event.rpartition(".")[2] in HEADS:
            stored[event], expected[event] = array.reshape(7, -1, 8).transpose(axes)[None], layout
    _, lines = check(drafted, model, [(event, stored.get(event, array)) for event, array in own.items()])
    assert {line.event: line.layout for line in lines if line.layout} == expected


def test_writes_the_layout_of_a_square_array(decoder_folder, drafted):
    model = load(decoder_folder("llama_gqa", intermediate_size=7))
    text, _ = check(drafted, model, [("layer0.mlp.up", values_of(model)["layer0.mlp.up"])])
    assert '"layer0.mlp.up" = { from = "t0", layout = "TC" }' in text


def test_does_not_suggest_copies_and_known_events(drafted, model, own):
    files = {"embed.tok": own["embed.tok"], "t0": own["embed.tok"]}
    text, lines = drafted(model, files | dict.fromkeys(["a", "b"], own["layer0.attn.norm"]), ["embed.tok"])
    assert [line.event for line in lines] == ["layer0.attn.norm"]
    assert "# 1 tensors are known by their names" in text
    assert "tensors not placed: 2" in text


def test_lists_undecided_tensors(drafted, model, own):
    text, lines = drafted(model, {"t0": own["embed.tok"], "t1": numbers(7, 48, seed=1)})
    assert found_in(lines) == {"t0": "embed.tok"}
    assert '# not placed: "t1" [7, 48]: values, names and order do not determine the event' in text
    assert "events: 1 placed; tensors not placed: 1" in text


def line_of(text, event):
    (line,) = (line for line in text.splitlines() if line.startswith(f'"{event}"'))
    return line


def test_places_tensors_after_a_fault_by_order(drafted, model):
    def mixed(value):
        return np.random.default_rng(0).permutation(value.ravel()).reshape(value.shape)

    text, _ = check(drafted, model, list(run_with(model, "layer0.attn.q_rope", mixed).items()))
    assert "by operation; values differ" in line_of(text, "layer0.attn.q_rope")
    assert "values agree" in line_of(text, "layer0.attn.k_rope")
    scaled = run_with(model, "layer1.attn.q", lambda value: value * np.float32(1.5))
    text, _ = check(drafted, model, list(scaled.items()))
    assert "by name; values differ by 0.4" in line_of(text, "layer1.attn.q")


@pytest.mark.parametrize("name", ["layer0.attn.scores", "layer1.attn.weights", "layer1.attn.q"])
def test_nan_agrees_with_no_event(drafted, model, own, name):
    arrays = {"t0": own["embed.tok"], "t1": np.full_like(own[name], np.nan), "t2": own["logits"]}
    text, lines = drafted(model, arrays)
    found = found_in(lines)
    assert (found["t0"], found["t2"]) == ("embed.tok", "logits")
    if "t1" in found:
        assert line_of(text, found["t1"]).endswith(
            "by order; values differ by inf; 100% of the values are not finite"
        )


@pytest.mark.parametrize("case", ["llama_gqa", "qwen3"])  # in qwen3, q, k and v are as wide as gate and up
def test_slices_fused_products(decoder_folder, drafted, case):
    model = load(decoder_folder(case))
    own = values_of(model)
    whole = {
        "t0": np.hstack([own[f"layer1.attn.{n}"] for n in "qkv"]),
        "t1": np.hstack([own["layer1.mlp.gate"], own["layer1.mlp.up"]])[None],
    }
    _, lines = drafted(model, whole)
    assert len(lines) == 5
    for line in lines:
        part = whole[line.source.removesuffix(".npy")][line.index]
        assert np.array_equal(part.reshape(own[line.event].shape), own[line.event]), line.event


# --- Names with the number of a layer ----------------------------------------------------------

OWN_NAMES = {
    "attn.norm": "ln1", "attn.q": "Q", "attn.k": "K", "attn.v": "V", "attn.out": "attnout", "mlp.norm": "ln2",
    "mlp.gate": "ffg", "mlp.up": "ffu", "mlp.act": "act", "mlp.down": "ffd", "mlp.residual": "x",
}  # fmt: skip
GLOBAL = {"embed.tok": "wte", "final.norm": "lnf", "logits": "head"}
LAYERS = range(4)


@pytest.fixture(scope="module")
def deeper(decoder_folder):
    return load(decoder_folder("llama_gqa", num_hidden_layers=len(LAYERS)))


def engine_names(values, first=0):
    """Return the files of an engine with other names, in alphabetic order, and their events."""
    files, truth = {}, {}
    for event, array in values.items():
        layer, _, kind = event.partition(".")
        name = GLOBAL.get(event)
        if kind in OWN_NAMES:
            name = f"blk{int(layer.removeprefix('layer')) + first}_{OWN_NAMES[kind]}"
        if name:
            files[name], truth[name] = array, event
    return dict(sorted(files.items())), truth


def faulty(model, event):
    """Return the values of a run in which an operation returns its channels in another order."""
    return run_with(model, event, lambda value: np.roll(value, value.shape[-1] // 2, axis=-1))


def without_the_last_layer(model):
    values = {event: array for event, array in values_of(model).items() if not event.startswith("layer3")}
    return engine_names(values, first=1)


def with_gate_and_up_swapped(model):
    own = values_of(model)
    swapped = {"layer0.mlp.gate": own["layer0.mlp.up"], "layer0.mlp.up": own["layer0.mlp.gate"]}
    return engine_names(own | swapped)


def in_a_drifting_bf16(model):
    """Add noise that grows from layer to layer, from 0.004 to 0.128."""
    rng = np.random.default_rng(0)

    def drifted(event, array):
        far = 0.004 * 2 ** (5 * int(event[5]) // 3) if event.startswith("layer") else 0
        return rounded_to(array * (1 + rng.normal(0, far, array.shape)).astype(np.float32), "bf16")

    return engine_names({event: drifted(event, array) for event, array in values_of(model).items()})


def with_copies(model):
    """Add a second name of some events, as for a module and its last submodule."""
    values = faulty(model, "layer2.attn.context")
    files, truth = engine_names(values)
    return files | {f"blk{i}_mlp": values[f"layer{i}.mlp.down"] for i in (1, 3)}, truth


def inputs_of_layers(model):
    """Name each output of a layer as the input of the next one."""
    truth = {f"stream{i + 1}": f"layer{i}.mlp.residual" for i in LAYERS[:-1]} | {"stream0": "embed.tok"}
    truth |= {f"up{i}": f"layer{i}.mlp.up" for i in LAYERS}
    return {name: values_of(model)[event] for name, event in truth.items()}, truth


def with_a_number_that_is_no_layer(model):
    truth = {f"blk{i}_up": f"layer{i}.mlp.up" for i in LAYERS}
    files = {name: values_of(model)[event] for name, event in truth.items()}
    return files | {"blk77_up": numbers(7, 48)}, truth


def with_noise_in_a_layer(model):
    """Replace one layer by noise, which only its name can place."""
    kinds = {"zz": "attn.norm", "mm": "attn.out", "aa": "mlp.down"}
    truth = {f"{name}_x{1 + i}": f"layer{i}.{kind}" for i in LAYERS for name, kind in kinds.items()}
    files = {name: values_of(model)[event] for name, event in truth.items()}
    return files | {"mm_x2": numbers(7, 32)}, truth


def with_telling_names(model):
    """Change values in every layer, and use names with the words of the events."""
    values = faulty(model, "*.attn.context")
    truth = {name.replace("layer", "blk").replace(".", "_") + "_tmp": name for name in values}
    return {name: values[event] for name, event in truth.items()}, truth


OPERATIONS = {
    "norm": "mul", "q": "linear", "k": "linear", "v": "linear", "q_rope": "add", "k_rope": "add",
    "scores": "mul", "weights": "softmax", "context": "reshape", "out": "linear", "residual": "add",
    "gate": "linear", "up": "linear", "act": "silu", "hidden": "mul", "down": "linear",
    "tok": "embedding", "logits": "linear",
}  # fmt: skip


def with_counters(values):
    """Name each value by its operation and count the operations, as an exporter of graphs does. A norm also
    has an operation that is no event."""
    count, files, truth = dict.fromkeys(OPERATIONS.values(), 0), {}, {}
    for event, array in values.items():
        kind = event.rpartition(".")[2]
        if kind in OPERATIONS:
            steps = [("add", None, numbers(len(array), 1, seed=len(files)))] * (kind == "norm")
            for operation, known, value in [*steps, (OPERATIONS[kind], event, array)]:
                name = f"{operation}_{count[operation]}".removesuffix("_0")
                count[operation] += 1
                files[name] = value
                if known:
                    truth[name] = known
    return dict(sorted(files.items())), truth


ENGINES = {  # a function that returns files and their events, and words of the draft
    "right": (
        lambda model: engine_names(values_of(model)),
        '"layer{i}.mlp.up" = "blk{i}_ffu" # values agree in 4 of 4 layers, 0.0e+00',
    ),
    "counts from one": (lambda model: engine_names(values_of(model), 1), '"layer0.mlp.up" = "blk1_ffu"'),
    "counts from one, last layer missing": (without_the_last_layer, '"layer0.mlp.up" = "blk1_ffu"'),
    "bf16, late layers off": (in_a_drifting_bf16, "values agree in"),
    "gate and up swapped in a layer": (with_gate_and_up_swapped, "values agree in 3 of 4 layers"),
    "fault in a layer": (
        lambda model: engine_names(faulty(model, "layer2.attn.out")),
        "values agree in 2 of 4 layers, and differ by at most 1.",
    ),
    "fault in RoPE": (lambda model: engine_names(faulty(model, "layer1.attn.q_rope")), "values agree in"),
    "fault in every layer": (with_telling_names, "# events: 77 placed"),
    "copies": (with_copies, '# not placed: "blk1_mlp" [7, 32]: a copy of layer1.mlp.down'),
    "inputs of layers": (inputs_of_layers, '"layer2.mlp.residual" = "stream3"'),
    "a number that is no layer": (with_a_number_that_is_no_layer, '"layer3.mlp.up" = "blk3_up"'),
    "counters of an exporter": (
        lambda model: with_counters(faulty(model, "layer1.attn.q_rope")),
        '"layer3.mlp.down" = "linear_27" # by name; values differ',
    ),
    "noise in a layer": (with_noise_in_a_layer, '"layer1.attn.out" = "mm_x2" # by name'),
}


@pytest.mark.parametrize("what", some_of(ENGINES, every=3))
def test_places_series_of_names(drafted, deeper, what):
    engine, words = ENGINES[what]
    files, truth = engine(deeper)
    text, lines = drafted(deeper, files)
    assert found_in(lines) == truth
    assert words in " ".join(text.split())


FAULTY = [
    *("*.attn.norm", "layer0.attn.norm", "*.attn.?_rope", "layer0.attn.?_rope", "*.attn.q", "*.attn.v"),
    *("*.attn.scores", "layer0.attn.weights", "layer0.attn.context", "*.attn.out", "*.mlp.norm"),
    *("layer0.mlp.gate", "*.mlp.act", "layer0.mlp.hidden", "*.mlp.down", "layer1.mlp.residual", "final.norm"),
    *("layer2.attn.k", "layer3.attn.scores", "layer3.mlp.down"),
]


def with_copies_of_counters(values):
    """Add a second name of every event, in another family of names: an exporter's Identity and Cast."""
    files, truth = with_counters(values)
    copies = {f"clone_{at}": event for at, event in enumerate(truth.values())}
    return files | {name: values[event] for name, event in copies.items()}, truth, copies


@pytest.mark.parametrize("event", some_of(FAULTY, every=4))
def test_places_all_events_although_values_disagree(drafted, deeper, event):
    values = faulty(deeper, event)
    files, truth = with_counters(values)
    found = found_in(drafted(deeper, files)[1])
    print(f"{event}: {len(found)} of {len(truth)} events")
    assert found == truth


@pytest.mark.parametrize("event", some_of(["layer2.mlp.up", *FAULTY[:3]], every=4))
def test_gives_no_line_to_copies(drafted, deeper, event):
    files, truth, copies = with_copies_of_counters(faulty(deeper, event))
    lines = found_in(drafted(deeper, files)[1])
    assert {name: (truth | copies)[name] for name in lines} == lines
    assert sorted(lines.values()) == sorted(truth.values())


@needs_smollm2
def test_places_the_events_of_smollm2_by_counters(drafted):
    """A graph computes all 545 events but probs and loss."""
    model = load(SMOLLM2)
    files, truth = with_counters(values_of(model, (504, 3575, 282, 4649, 314)))
    _, lines = drafted(model, files)
    assert found_in(lines) == truth
    assert len(truth) == 543


def test_a_word_of_the_name_decides_if_no_value_agrees(drafted, deeper):
    _, lines = drafted(deeper, {f"layer{i}.up_proj": numbers(7, 48, seed=i) for i in LAYERS})
    assert found_in(lines) == {f"layer{i}.up_proj": f"layer{i}.mlp.up" for i in LAYERS}


def test_lists_undecided_series(drafted, deeper):
    files, truth = engine_names(faulty(deeper, "*.attn.context"))
    text, lines = drafted(deeper, files)
    assert found_in(lines).items() <= truth.items()
    reason = "values, names and order do not determine the event of this tensor"
    assert f'# not placed: "blk{{i}}_attnout" [7, 32], 4 tensors: {reason}' in text


def test_a_norm_that_does_nothing_is_a_copy(drafted, deeper):
    values = values_of(deeper)
    text, _ = drafted(deeper, engine_names(values | {"final.norm": values["layer3.mlp.residual"]})[0])
    assert '# not placed: "lnf" [7, 32]: a copy of layer3.mlp.residual' in text


def test_slices_fused_products_the_same_in_all_layers(drafted, deeper):
    values = faulty(deeper, "layer1.attn.context")
    fused = {f"blk{i}_qkv": np.hstack([values[f"layer{i}.attn.{n}"] for n in "qkv"]) for i in LAYERS}
    text, lines = drafted(deeper, fused)
    assert len(lines) == 12
    for line in ('"q" = "blk{i}_qkv[:, :32]"', '"k" = "blk{i}_qkv[:, 32:48]"', '"v" = "blk{i}_qkv[:, 48:]"'):
        assert line.replace('"', '"layer{i}.attn.', 1) in text


# --- TOML ---------------------------------------------------------------------------------------


def test_reads_back_a_draft_with_any_names(drafted, model, own):
    odd = {'a "b"\\\x7f\n': "embed.tok", "odd[1]": "layer0.attn.norm", "q": "layer0.attn.q_rope"}
    files = {name: own[event] for name, event in odd.items()} | {"x": numbers(5, 7)}
    text, lines = drafted(model, files)
    assert found_in(lines) == odd
    assert f"tokens = {list(TOKENS)}\n" in text
    assert '# not placed: "x" [5, 7]' in text


def test_lists_arrays_of_other_types(model, own, tmp_path):
    for i, array in enumerate([own["embed.tok"], np.ones((7, 32), complex), np.ones((7, 32), bool)]):
        np.save(tmp_path / f"t{i}.npy", array)
    text = drafted_map([open_recording(tmp_path), model], None, TOKENS)
    assert '"embed.tok" = "t0"' in text
    assert '# not placed: "t1" [7, 32]: numbers of type complex128 are not supported' in text
