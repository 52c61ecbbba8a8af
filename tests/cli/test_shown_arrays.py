"""--show, and array names in Python: parts in brackets keep the labels of the whole array."""

import re

import numpy as np
import pytest
from support.commands import microgpt, refusal

from microgpt_trace import init, load, trace
from microgpt_trace.errors import InputError


@pytest.fixture(scope="module")
def run():
    return trace(init(), "emma", backward=True)


def printed_array(line, width=200):
    """Return the title, the column labels, and the rows: a label and numbers each."""
    done = microgpt(f"trace {line}", width=width)
    assert done.code == 0, done.err
    title, *rest = done.out.split("\n\n")[1].splitlines()
    rest = [row for row in rest if not re.fullmatch(r"head \d+", row)]
    print(title, *rest, sep="\n")
    return title, rest[0].split(), [row.split() for row in rest[1:]]


PARTS = {  # what is asked for, the same by NumPy, and the labels of the rows and columns
    "layer0.attn.weights[1]": (np.s_[1], [*"_emma"], [*"_emma"]),
    "layer0.attn.weights[-1,2:4]": (np.s_[-1, 2:4], ["m", "m"], [*"_emma"]),
    "layer0.attn.scores[2,3,1-2]": (np.s_[2, 3:4, 1:3], ["m"], ["e", "m"]),
    "layer0.attn.q[3,0:8]": (np.s_[3:4, :8], ["m"], ["0.0", "0.1", "0.2", "0.3", "1.0", "1.1", "1.2", "1.3"]),
    "layer0.attn.q[:, -2:]": (np.s_[:, -2:], [*"_emma"], ["3.2", "3.3"]),
    "layer0.mlp.act@-1:5,62": (np.s_[-1:, [5, 62]], ["a"], ["5", "62"]),
    "layer0.mlp.act[1:3]": (np.s_[1:3], ["e", "m"], list(map(str, range(64)))),
    "logits[-1]": (np.s_[-1:], ["a"], ["EOS", *"abcdefghijklmnopqrstuvwxyz"]),
    "probs[1,a]": (np.s_[1:2, 1:2], ["e"], ["a"]),
    "logits[2,3:5]": (np.s_[2:3, 3:5], ["m"], ["c", "d"]),
}


@pytest.mark.parametrize("name", PARTS)
def test_a_part_has_its_labels_and_the_values_of_numpy(run, name):
    index, rows, columns = PARTS[name]
    title, heads, lines = printed_array(f"emma --show '{name}'", width=700)
    assert title.startswith(f"{name}  ")
    assert [label.replace("BOS", "_") for label in heads] == columns
    assert [line[0].replace("BOS", "_") for line in lines] == rows
    expected = run[re.split(r"[\[@]", name)[0]][index]
    numbers = [[float(x) for x in line[1:]] for line in lines]
    np.testing.assert_allclose(numbers, np.atleast_2d(expected), atol=6e-4)
    if "a]" not in name:
        np.testing.assert_array_equal(np.squeeze(run[name]), np.squeeze(expected))


def test_a_single_index_removes_its_axis_and_gradients_have_parts(run):
    """As in NumPy."""
    for text, plain in (("layer0.attn.weights[1]", np.s_[1]), ("layer0.attn.q[3,0:8]", np.s_[3, :8]),
                        ("layer0.attn.scores[2,3,1]", np.s_[2, 3, 1]), ("wte[3]", np.s_[3])):  # fmt: skip
        array = run.gradient if text.startswith("wte") else run.array
        assert np.shape(array(text)) == array(text.partition("[")[0])[plain].shape
    out = microgpt("trace emma --backward --show 'layer0.attn.q[3,0:2]'").out
    title = r"^d loss / d layer0\.attn\.q\[3,0:2\]  1×2 of 5×16 float32\n.*\n"
    numbers = re.search(rf"{title}m +(\S+) +(\S+)$", out, re.M).groups()
    expected = run.gradient("layer0.attn.q")[3, :2]
    np.testing.assert_allclose([float(x) for x in numbers], expected, atol=6e-4)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("layer0.attn.weights[4]", "no head 4 exists: layer0.attn.weights has heads 0 to 3"),
        ("layer0.attn.q[5]", "no position 5 exists: layer0.attn.q has positions 0 to 4"),
        ("layer0.attn.q[0,0:17]", "no channel 16 exists: layer0.attn.q has channels 0 to 15"),
        ("layer0.attn.q[0,-17:]", "no channel -17 exists: layer0.attn.q has channels 0 to 15"),
        ("layer0.attn.q[0,4:4]", "4:4 ends before it begins"),
        ("layer0.attn.q[0,1:9:2]", "expected a channel such as 3"),
        ("layer0.attn.q[0,0,0]", "found 3 indices"),
        ("wte[27]", "no row 27 exists: wte has rows 0 to 26"),
        ("wte[0,x]", "expected a column such as 3"),
        ("loss[0]", "loss is one number"),
        ("logits[0,emma]", "emma"),
        ("layer0.attn.q[", "expected NAME"),
        ("nothing[1]", "matches no event"),
    ],
)
def test_refuses_missing_parts_before_the_run(monkeypatch, tmp_path, name, said):
    assert said in refusal(f"trace emma --html a.html --show '{name}'", cwd=tmp_path)
    assert not [*tmp_path.iterdir()]
    ran = []
    monkeypatch.setattr("microgpt_trace.tracing.traced_run.forward", lambda *args: ran.append(args))
    assert said in refusal(f"trace emma --show '{name}'")
    assert not ran


def test_shows_parts_of_a_production_model(decoder, monkeypatch):
    model = load(decoder)
    whole = trace(model, "Ann", values=["layer1.attn.weights", "logits"])
    title, heads, lines = printed_array(f"{decoder} Ann --show 'layer1.attn.weights[3]'")
    assert (title, heads) == ("layer1.attn.weights[3]  1×3×3 of 4×3×3 float32", ["A", "n", "n"])
    numbers = [[float(x) for x in line[1:]] for line in lines]
    np.testing.assert_allclose(numbers, whole["layer1.attn.weights"][3], atol=6e-4)
    part = trace(model, "Ann", values=["layer*.attn.weights[3]"])
    np.testing.assert_array_equal(part["layer1.attn.weights[3]"], whole["layer1.attn.weights"][3])
    _, heads, lines = printed_array(f"{decoder} Ann --show 'layer0.attn_wq[3:5,7]'")
    assert (heads, [line[0] for line in lines]) == (["7"], ["3", "4"])
    np.testing.assert_allclose(
        [float(line[1]) for line in lines], model.parameter("layer0.attn_wq")[3:5, 7], atol=6e-4
    )
    ran = []
    monkeypatch.setattr("microgpt_trace.tracing.traced_run.forward", lambda *args: ran.append(args))
    for name, said in (("layer1.attn.weights[4]", "head 4"), ("layer1.attn.weights[0,3]", "query 3"),
                       ("layer0.attn_wq[64]", "row 64")):  # fmt: skip
        assert said in refusal(f"trace {decoder} Ann --show '{name}'")
    assert not ran


@pytest.mark.parametrize(("place", "index"), [("", np.s_[:]), ("[3:6]", np.s_[3:6]), ("[-1]", np.s_[-1:])])
def test_a_vector_is_a_row_of_columns(decoder, place, index):
    name = "layer0.attn_norm"
    title, heads, ((_, *numbers),) = printed_array(f"{decoder} Ann --show '{name}{place}'", width=900)
    assert title == f"{name}{place}  " + (f"{len(heads)} of " if place else "") + "32 float32"
    assert heads == [str(i) for i in range(32)][index]
    np.testing.assert_allclose(np.float64(numbers), load(decoder).parameter(name)[index], atol=6e-4)
    assert "no index 32 exists: layer0.attn_norm has indices 0 to 31" in refusal(
        f"trace {decoder} Ann --show '{name}[32]'"
    )


def test_positions_count_in_the_text_if_few_have_logits(decoder):
    model = load(decoder)
    all_of = trace(model, "Ann ran", values=["logits"])["logits"]
    _, _, lines = printed_array(f"{decoder} 'Ann ran' --positions 0,5 --show 'logits[5,2:4]'")
    assert lines[0][0] == "a"
    np.testing.assert_allclose([float(x) for x in lines[0][1:]], all_of[5, 2:4], atol=6e-4)
    some = trace(model, "Ann ran", values=["logits[-2]"], positions=[0, 5])
    np.testing.assert_allclose(some["logits[5]"], all_of[5], rtol=1e-5)
    said = "the logits of position 2 are not computed"
    assert said in refusal(f"trace {decoder} 'Ann ran' --positions 0,5 --show 'logits[2]'")
    with pytest.raises(InputError, match="logits of position 2 were not computed"):
        some["logits[2]"]
    _, _, lines = printed_array(f"{decoder} 'Ann ran' --positions 0,5 --show logits", width=900)
    assert [line[0] for line in lines] == ["A", "a"]
