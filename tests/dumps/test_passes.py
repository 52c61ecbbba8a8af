"""Several passes of one run, and one text of a batch, become one recording with a row for each position."""

import numpy as np
import pytest
from support.tiny_models import tiny_model, write_folder

from microgpt_trace import load
from microgpt_trace.comparison.diff import diff
from microgpt_trace.diagnosis.diagnose import diagnose
from microgpt_trace.diagnosis.faults.input_faults import token_findings
from microgpt_trace.dumps.formats import open_recording
from microgpt_trace.dumps.passes import numbered
from microgpt_trace.errors import FileFormatError, InputError
from microgpt_trace.naming.user_map import NameMap, PassChoice, pass_choice, read_map
from microgpt_trace.tracing.trace import trace

TOKENS = (3, 17, 44, 3, 60, 0, 29)
EVENTS = ("embed.tok", "layer0.attn.q_rope", "layer0.attn.k_rope", "layer0.attn.v", "layer0.attn.scores",
          "layer0.attn.weights", "layer0.attn.context", "layer1.mlp.down", "logits")  # fmt: skip


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("passes") / "model"
    config, weights = tiny_model("llama_gqa")
    write_folder(folder, config, weights)
    return load(folder)


@pytest.fixture(scope="module")
def whole(model):
    """The arrays of one pass, by event."""
    result = trace(model, tokens=TOKENS, names=EVENTS, values=True, positions="all")
    return {name: np.asarray(result.arrays["forward", name]) for name in EVENTS}


def cut(array, start, stop):
    """Return the rows of a pass. Scores and weights have the keys so far."""
    return array[:, start:stop, :stop] if array.ndim == 3 else array[start:stop]


def write_pass(folder, step, arrays, ids=TOKENS, **more):
    folder.mkdir(exist_ok=True)
    np.savez(folder / f"step{step}.npz", input_ids=np.array(ids), **arrays, **more)
    return folder


def written(whole, folder, lengths, change=lambda name, array, start: array):
    start = 0
    for step, length in enumerate(lengths):
        arrays = {
            name: change(name, cut(array, start, start + length), start) for name, array in whole.items()
        }
        write_pass(folder, step, arrays, TOKENS[start : start + length])
        start += length
    return folder


def values(path, model, names=None):
    recording = open_recording(path, names)
    found = {name: recording.values_of(name, model, len(TOKENS))[0] for name in recording.tensors}
    return found, recording


@pytest.mark.parametrize("lengths", [[7], [5, 1, 1], [3, 3, 1], [1] * 7])
def test_passes_have_the_rows_of_one_pass(model, whole, tmp_path, lengths):
    found, recording = values(written(whole, tmp_path / "run", lengths), model)
    assert recording.tokens == TOKENS
    assert found.keys() == whole.keys()
    for name, array in whole.items():
        expected = np.tril(array) if array.ndim == 3 else array  # a pass has no later keys
        assert np.array_equal(np.tril(found[name]) if array.ndim == 3 else found[name], expected), name
    assert diagnose(recording, model).diagnosis.clean


def test_the_last_row_of_the_logits_of_each_pass_is_at_its_position(model, whole, tmp_path):
    def last(name, array, start):
        return array[-1:] if name == "logits" else array

    recording = open_recording(written(whole, tmp_path / "run", [5, 1, 1], last))
    array, positions = recording.values_of("logits", model, 7)
    assert tuple(positions) == (4, 5, 6)
    assert np.array_equal(array, whole["logits"][4:])


def test_a_static_cache_and_a_short_cache_have_their_keys_in_place(model, whole, tmp_path):
    def static(name, array, start):
        return np.pad(array, [(0, 0), (0, 0), (0, 9)]) if array.ndim == 3 else array

    found, _ = values(written(whole, tmp_path / "static", [5, 2], static), model)
    assert np.array_equal(np.tril(found["layer0.attn.weights"]), whole["layer0.attn.weights"])

    def short(name, array, start):
        return array[..., 2:] if array.ndim == 3 and start else array

    found, _ = values(written(whole, tmp_path / "short", [5, 2], short), model)
    weights = found["layer0.attn.weights"]
    assert not weights[:, 5:, :2].any()
    assert np.array_equal(weights[:, 5:, 2:], whole["layer0.attn.weights"][:, 5:, 2:])


def test_positions_of_passes_are_given_by_the_user(model, whole, tmp_path):
    folder = written(whole, tmp_path / "run", [4, 3])
    for step, rows in ((0, slice(3, 7)), (1, slice(0, 3))):  # the second part of the text was computed first
        write_pass(folder, step, {"embed.tok": whole["embed.tok"][rows]}, TOKENS[rows])
    found, recording = values(folder, model, NameMap("", passes=pass_choice("3-6,0-2")))
    assert recording.tokens == TOKENS
    assert np.array_equal(found["embed.tok"], whole["embed.tok"])
    with pytest.raises(InputError, match="passes of 4, 3 rows, found 4, 2"):
        open_recording(folder, NameMap("", passes=pass_choice("0-3,4-5")))


def batch_of(whole, pads, side, mask):
    """Return the arrays of a batch: the second text has padding, and the first has other values."""
    width = (pads, 0) if side == "left" else (0, pads)
    arrays = {}
    for name, array in whole.items():
        axes = [(0, 0), width, width] if array.ndim == 3 else [width, (0, 0)]
        own = np.pad(array, axes, constant_values=7.5)
        arrays[name] = np.stack([np.roll(own, 1, axis=-1), own])
    ids = np.pad(np.array(TOKENS), width, constant_values=1)
    more = {"input_ids": np.stack([np.full_like(ids, 5), ids])}
    real = np.pad(np.ones(len(TOKENS), int), width)
    return arrays | more | ({"attention_mask": np.stack([np.ones_like(real), real])} if mask else {})


@pytest.mark.parametrize(
    ("side", "mask"), [("left", True), ("right", True), ("left", False), ("right", False)]
)
def test_one_text_of_a_padded_batch(model, whole, tmp_path, side, mask):
    np.savez(tmp_path / "batch.npz", **batch_of(whole, 3, side, mask))
    choice = PassChoice(text=1, padding=None if mask else (side, 3))
    found, recording = values(tmp_path / "batch.npz", model, NameMap("", passes=choice))
    assert recording.tokens == TOKENS
    for name, array in whole.items():
        assert np.array_equal(found[name], array), name
    assert recording.texts.rows == tuple(range(3, 10) if side == "left" else range(7))
    with pytest.raises(InputError, match="a batch of 2 texts: choose one with --batch 0 to 1"):
        open_recording(tmp_path / "batch.npz")
    with pytest.raises(InputError, match="expected a text below 2, found 2"):
        open_recording(tmp_path / "batch.npz", NameMap("", passes=PassChoice(text=2)))


def test_tensors_whose_axes_are_unclear_are_left_over(model, whole, tmp_path):
    def other(name, array, start):
        return array[:, :8] if name == "layer1.mlp.down" and start else array

    recording = open_recording(written(whole, tmp_path / "run", [5, 2], other))
    reasons = {left.recorded.source: left.reason for left in recording.leftovers}
    assert reasons["layer1.mlp.down"] == "the shapes of the passes do not fit together"
    four = np.zeros((4, 4, 8))
    folder = write_pass(tmp_path / "four", 0, {"layer0.attn.q": four, **cut_all(whole, 0, 4)}, TOKENS[:4])
    write_pass(folder, 1, {"layer0.attn.q": four[:, :3], **cut_all(whole, 4, 7)}, TOKENS[4:])
    recording = open_recording(folder)  # only the second pass shows that the second axis has the positions
    assert recording.tensors["layer0.attn.q"].shape == (4, 7, 8)


def cut_all(whole, start, stop):
    return {name: cut(array, start, stop) for name, array in whole.items()}


@pytest.mark.parametrize(("names", "in_order"), [
    (["step10", "step9"], ["step9", "step10"]), (["Pass01.pt", "Pass00.pt"], ["Pass00.pt", "Pass01.pt"]),
    (["step1", "step01"], []), (["step1", "readme"], []),
])  # fmt: skip
def test_numbers_of_passes_are_sorted_as_numbers(tmp_path, names, in_order):
    for name in names:
        (tmp_path / name).touch()
    assert [path.name for path in numbered(tmp_path)] == in_order


@pytest.mark.parametrize(("line", "words"), [
    ('positions = "0-4,x"', "expected the positions of each pass"),
    ('positions = "4-0"', "expected the positions of each pass"), ("positions = 3", "expected a text"),
    ('batch = "one"', "batch: expected a whole number"), ('padding = "top:3"', "expected the side"),
])  # fmt: skip
def test_a_map_says_what_is_known_about_passes(tmp_path, line, words):
    (tmp_path / "map.toml").write_text(line)
    with pytest.raises((InputError, FileFormatError), match=words):
        read_map(tmp_path / "map.toml")
    (tmp_path / "map.toml").write_text('positions = "0-1,2"\nbatch = 1\npadding = "left:3"\n')
    assert read_map(tmp_path / "map.toml").passes == PassChoice(((0, 1), (2,)), 1, ("left", 3))


def test_two_schedules_of_one_model_are_compared(model, whole, tmp_path):
    a, b = written(whole, tmp_path / "a", [7]), written(whole, tmp_path / "b", [4, 2, 1])
    assert diff(a, b).agree

    def wrong(name, array, start):
        return array * 1.01 if name == "layer0.attn.context" and start == 6 else array

    found = diff(a, written(whole, tmp_path / "c", [4, 2, 1], wrong))
    assert (found.first, found.event(found.first).position) == ("layer0.attn.context", 6)
    assert found.where.startswith("differs in 1 of 7 rows (6) and in")


def test_a_single_decoding_step_is_at_its_own_position(model, whole, tmp_path):
    rows = {name: array[:, 5:6, :6] if array.ndim == 3 else array[5:6] for name, array in whole.items()}
    one = write_pass(tmp_path / "one", 0, rows, [TOKENS[5:6]], position_ids=np.array([[5]])) / "step0.npz"
    found = diagnose(one, model, tokens=TOKENS).diagnosis
    assert found.clean
    assert found.judged > 3
    step = write_pass(tmp_path / "bare", 0, rows, TOKENS[5:6]) / "step0.npz"
    assert diagnose(step, model, tokens=TOKENS, map=NameMap("", passes=pass_choice("5"))).diagnosis.clean
    notes = open_recording(step, NameMap("", passes=pass_choice("5,6"))).notes
    assert notes == ("the given positions of passes are not for this dump, which has one pass",)
    notes = open_recording(step, NameMap("", passes=PassChoice(text=2))).notes
    assert notes == ("the given text of a batch is not for this dump, which has one text",)
    other = written(whole, tmp_path / "other", [7]) / "step0.npz"
    notes = open_recording(other, NameMap("", passes=PassChoice(padding=("left", 2)))).notes
    assert notes == ("the given padding is not for this dump: its tokens there differ",)


@pytest.mark.parametrize(("ids", "words"), [
    ((3, 17, 44, 44, 3, 60, 0, 29), "token 44 is doubled at position 3"),
    ((3, 17, 44, 60, 0, 29), "token 3 is lost at position 3"),
])  # fmt: skip
def test_a_lost_or_doubled_token_is_named(model, whole, tmp_path, ids, words):
    a, b = written(whole, tmp_path / "a", [7]), tmp_path / "b"
    rows = {"embed.tok": np.zeros((len(ids), 32))}
    for step, part in enumerate((slice(3), slice(3, None))):
        write_pass(b, step, {name: array[part] for name, array in rows.items()}, ids[part])
    with pytest.raises(InputError, match=words):
        diff(a, b)
    (finding,) = token_findings(model, ids, TOKENS, open_recording(b).starts)
    assert finding.claim == f"tokens: {words}, where a pass begins"


def test_gaps_and_positions_outside_the_text_are_refused(model, whole, tmp_path):
    run = written(whole, tmp_path / "run", [4, 2, 1])
    (run / ".hidden").touch()
    outside = NameMap("", passes=pass_choice("0-3,4-5,9"))
    with pytest.raises(InputError, match="expected positions below 7, found 9"):
        diagnose(run, model, tokens=TOKENS, map=outside)
    (run / "step1.npz").unlink()
    with pytest.raises(InputError, match="expected the numbers 0 to 1, found no 1"):
        open_recording(run)


def test_a_text_that_ended_earlier_and_a_float_mask(model, whole, tmp_path):
    arrays = batch_of(whole, 3, "left", True)
    first = {name: array[:, :, :9, :9] if array.ndim == 4 else array[:, :9] for name, array in arrays.items()}
    last = {name: array[:, :, 9:, :] if array.ndim == 4 else array[:, 9:] for name, array in arrays.items()}
    last["attention_mask"] = np.r_[arrays["attention_mask"][:1] * 0, arrays["attention_mask"][1:]].astype(
        "f4"
    )
    folder = tmp_path / "batch"
    folder.mkdir()
    for step, own in enumerate((first, last)):
        np.savez(folder / f"step{step}.npz", **own)
    found, recording = values(folder, model, NameMap("", passes=PassChoice(text=1)))
    assert recording.tokens == TOKENS
    assert recording.notes[1:] == ("text 1 of a batch of 2", "3 rows of padding cut")
    assert np.array_equal(found["layer1.mlp.down"], whole["layer1.mlp.down"])
    ended = open_recording(folder, NameMap("", passes=PassChoice(text=0)))
    assert ended.tokens == (5,) * 9
    np.savez(tmp_path / "none.npz", **arrays | {"attention_mask": np.zeros((2, 10), int)})
    with pytest.raises(InputError, match="expected a text, found only padding"):
        open_recording(tmp_path / "none.npz", NameMap("", passes=PassChoice(text=1)))


def test_a_padded_text_alone_is_text_0_whatever_text_is_given(model, whole, tmp_path):
    arrays = {name: array[1:] for name, array in batch_of(whole, 3, "left", True).items()}
    np.savez(
        tmp_path / "one.npz",
        **{n: a if n in ("input_ids", "attention_mask") else a[0] for n, a in arrays.items()},
    )
    recording = open_recording(tmp_path / "one.npz", NameMap("", passes=PassChoice(text=2)))
    assert (recording.tokens, recording.texts.count, recording.texts.chosen) == (TOKENS, 1, 0)
