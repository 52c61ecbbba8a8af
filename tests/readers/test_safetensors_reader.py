"""Safetensors files: read as the safetensors package reads them, or refused where it refuses them."""

from attacks.formats.huggingface import packed
from hypothesis import given
from hypothesis import strategies as st
from support.hostile import fuzzing

from microgpt_trace.errors import FileFormatError
from microgpt_trace.readers.safetensors import read_safetensors


def judged(path):
    """What the safetensors package reads, None where it refuses."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np") as file:
            return {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118
    except SafetensorError:
        return None


def found(path):
    try:
        return {tensor.name: list(tensor.shape) for tensor in read_safetensors(path)}
    except FileFormatError:
        return None


small = st.integers(0, 24)
entries = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(["F32", "F16", "BF16"]),
        "shape": st.lists(st.integers(0, 4), max_size=3),
        "data_offsets": st.lists(small | st.integers(0, 2**64), min_size=2, max_size=2),
    }
)


@fuzzing
@given(st.dictionaries(st.sampled_from("abc"), entries, max_size=2), small)
def test_what_the_safetensors_package_refuses_is_refused(tmp_path, header, size):
    """And what it reads is read."""
    path = tmp_path / "any.safetensors"
    path.write_bytes(packed(header, bytes(size)))
    assert found(path) == judged(path)
