"""Read maps of names in TOML, apply them to the names of a dump, and reject wrong ones."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.hostile import fuzzing, time_limit

from microgpt_trace.errors import FileFormatError, InputError
from microgpt_trace.naming.user_map import NameMap, read_map, sliced_shape


@pytest.fixture
def mapped(tmp_path):
    """A function that reads a map from its text."""

    def read(text):
        path = tmp_path / "map.toml"
        path.write_text(text, encoding="utf-8")
        return read_map(path)

    return read


def lines(name_map, *names):
    return [(e.event, e.source, e.index, e.layout) for e in name_map.match(names, "dump")]


def refused(read, text, *words):
    with pytest.raises(FileFormatError) as caught:
        read(text)
    print(caught.value)
    assert str(caught.value).isprintable()
    assert all(word in str(caught.value) for word in ("map.toml", *words))


def test_reads_a_map_with_every_kind_of_line(mapped):
    names = mapped(
        """
        tokens = [1, 2, 3]
        [events]
        "layer0.attn.q" = "t003[:, :896]"
        "layer0.attn.scores" = { from = "t010", layout = "HTS" }
        "layer{i}.mlp.gate" = "blk{i}_gate"
        "layer{i}.attn.k" = "b{i}/k{i}"
        "layer{i}.attn.head3" = "result{i}[:, 3]"
        "final.norm" = { from = "last" }
        """
    )
    assert names.tokens == (1, 2, 3)
    found = "t003.npy t010 blk0_gate blk07_gate.npy last result5 other b1/k1 b1/k2"
    assert lines(names, *found.split()) == [
        ("layer0.attn.q", "t003.npy", (slice(None), slice(None, 896)), ""),
        ("layer0.attn.scores", "t010", (), "HTS"),
        ("layer0.mlp.gate", "blk0_gate", (), ""),
        ("layer7.mlp.gate", "blk07_gate.npy", (), ""),
        ("layer1.attn.k", "b1/k1", (), ""),
        ("layer5.attn.head3", "result5", (slice(None), 3), ""),
        ("final.norm", "last", (), ""),
    ]


def test_a_map_may_be_empty_or_have_only_tokens(mapped):
    assert mapped("") == NameMap(mapped("").origin)
    assert mapped("tokens = [5]") == NameMap(mapped("").origin, (), (5,))


def test_reads_slices_as_python_does(mapped):
    texts = ["[0]", "[-1]", "[0,]", "[:]", "[ 1 : 2 , :3]", "[::2]", "[1::2]", "[-4:-1:1]"]
    for text in texts:
        index = eval(f"np.s_{text}")
        expected = index if isinstance(index, tuple) else (index,)
        for blank in ("", " "):
            assert mapped(f'[events]\n"logits" = "t{blank}{text}"').entries[0].index == expected


@pytest.mark.parametrize("text", ["[]", "[a]", "[1 2]", "[:::]", "[::0]", "[1.5]", "[0,,1]"])
def test_rejects_a_wrong_slice(mapped, text):
    refused(mapped, f'[events]\n"logits" = "t{text}"', "logits", "slices")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("events = 3", ["events"]),
        ("names = {}", ["names"]),
        *((f"tokens = {value}", ["tokens"]) for value in ("3", "[]", "[true]", "[-1]", "[1.0]")),
        ('[events]\n"layer0.attn.quack" = "t"', ["layer0.attn.quack", "layer{i}.attn.q"]),
        ('[events]\n"layer{j}.attn.q" = "t"', ["layer{j}.attn.q"]),
        ('[events]\n"attn_wq" = "t"', ["attn_wq"]),
        ('[events]\n"layer0.attn.q" = 3', ["layer0.attn.q", "3"]),
        ('[events]\n"layer0.attn.q" = ""', ["layer0.attn.q"]),
        ('[events]\n"layer0.attn.q" = "[0]"', ["layer0.attn.q"]),
        ('[events]\n"layer0.attn.q" = { layout = "TC" }', ["layer0.attn.q", "from"]),
        ('[events]\n"layer0.attn.q" = { from = "t", lay = "TC" }', ["layer0.attn.q"]),
        ('[events]\n"layer0.attn.q" = { from = "t", layout = "TDH" }', ["TDH", "own", "HTD", "THS", "last"]),
        ('[events]\n"layer0.attn.q" = { from = "t", layout = 3 }', ["3", "HTD"]),
        ('[events]\n"layer0.attn.q" = { from = "t", layout = "" }', ["HTD"]),
        ('[events]\n"layer{i}.attn.q" = "t"', ["{i}"]),
        ('[events]\n"layer0.attn.q" = "t{i}"', ["{i}"]),
        ('[events]\n"logits" = "a"\n"logits" = "b"', ["TOML"]),
        ("[events", ["TOML"]),
        ("x = " + "[" * 5000, ["TOML"]),
    ],
)
def test_names_a_wrong_line(mapped, text, words):
    refused(mapped, text, *words)


def test_rejects_a_file_that_cannot_be_read(tmp_path):
    with pytest.raises(FileFormatError, match="no such file"):
        read_map(tmp_path / "map.toml")
    (tmp_path / "map.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(FileFormatError, match=r"map\.toml"):
        read_map(tmp_path / "map.toml")


@pytest.mark.parametrize("layout", ["own", "TC", "CT", "HTD", "THD", "HTS", "THS", "last"])
def test_reads_every_layout(mapped, layout):
    names = mapped(f'[events]\n"logits" = {{ from = "t", layout = "{layout}" }}')
    assert names.entries[0].layout == layout


@pytest.mark.parametrize(
    ("text", "names", "message"),
    [
        ('"logits" = "t03"', "t003 x", r"logits: dump has no tensor 't03' \(close: 't003'\)"),
        ('"layer{i}.attn.q" = "q{i}"', "qx", r"no tensor 'q\{i\}'"),
        ('"layer0.attn.q" = "a"\n"layer{i}.attn.q" = "q{i}"', "a q0", "layer0.* both 'a' and 'q0'"),
        ('"layer{i}.attn.q" = "q{i}"\n"layer0.attn.q" = "a"', "a q0", "layer0.* both 'q0' and 'a'"),
        ('"layer{i}.attn.q" = "q{i}"', "q1 q01", "'q1' and 'q01'"),
        ('"logits" = "t"', "t.npy t.bin", r"'t\.npy' and 't\.bin'"),
    ],
)
def test_rejects_a_map_that_does_not_fit_the_dump(mapped, text, names, message):
    with pytest.raises(InputError, match=message):
        mapped(f"[events]\n{text}").match(names.split(), "dump")


def test_an_exact_name_goes_before_one_without_its_extension(mapped):
    names = mapped('[events]\n"logits" = "t"')
    assert lines(names, "t.npy", "t") == [("logits", "t", (), "")]


MANY_PARTS = "\n".join([f"[{'.'.join('a' * 20_000)}]", *(f"k{i}=1" for i in range(20_000))])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (f'[events]\n"logits" = "x[0{" " * 5000}z]"', "expected indices and slices"),
        (f'[events]\n"logits" = "x[{":" * 50_000}]"', "expected indices and slices"),
        (f'[events]\n"logits" = "x{" " * 50_000}z["', None),
        (MANY_PARTS, "too many dots in the keys"),
    ],
    ids=["blanks in a slice", "colons", "blanks in a name", "many parts"],
)
def test_reads_no_map_slowly(mapped, text, words):
    """A slice of blanks took a minute, and tomllib walks all parts of a key again for every line."""
    with time_limit(20):
        if words is None:
            mapped(text)
        else:
            refused(mapped, text, words)


places = st.integers(-6, 6)
parts = st.one_of(
    places, st.builds(slice, st.none() | places, st.none() | places, st.sampled_from([None, 1, 2, -1]))
)


@fuzzing
@given(st.lists(parts, max_size=4).map(tuple), st.lists(st.integers(0, 5), max_size=3).map(tuple))
def test_a_sliced_shape_is_the_shape_in_numpy_or_an_error(index, shape):
    try:
        found = sliced_shape(index, shape, "t")
    except InputError:
        return
    assert found == np.empty(shape)[index].shape
    assert (sliced_shape((0, slice(1, 3)), (3, 3), "t"), sliced_shape((), (3,), "t")) == ((2,), (3,))


OUTSIDE = [
    ((slice(None), slice(None, 896)), "axis 1 of [3, 640] has 640 elements, and index 896 is outside"),
    ((3,), "axis 0 of [3, 640] has 3 elements, and index 3 is outside"),
    ((-4,), "index -4 is outside"),
    ((slice(2, 1),), "the slice is empty"),
    ((0, 0, 0), "expected at most 2 indices, found 3"),
]


@pytest.mark.parametrize(("index", "words"), OUTSIDE)
def test_rejects_a_slice_outside_the_shape(index, words):
    with pytest.raises(InputError) as caught:
        sliced_shape(index, (3, 640), "t003 for layer0.attn.q")
    assert "t003 for layer0.attn.q" in str(caught.value)
    assert words in str(caught.value)
