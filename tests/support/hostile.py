"""What a reader owes any bytes: a model or one line, and no memory that the file does not fill."""

import tracemalloc

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from microgpt_trace import load
from microgpt_trace.errors import FileFormatError, InputError
from microgpt_trace.readers import apr, gguf_model, huggingface  # noqa: F401 (imports are no allocation of a file's)

SLACK = 1 << 20  # bytes

fuzzing = settings(
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)

json_values = st.recursive(
    st.sampled_from([None, True, False, 0, -1, 1, 2**31, 2**63, 10**400, 0.5, "", "4", "a\nb\x1b[31m"])
    | st.floats()
    | st.integers()
    | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)


def _size(path):
    files = path.parent.rglob("*") if path.is_file() else path.rglob("*")
    return sum(file.stat().st_size for file in files)


def survives(path):
    """The refusal, in one line, or "" where it loads; memory stays below the size of the files."""
    tracemalloc.start()
    try:
        load(path)
        message = ""
    except (FileFormatError, InputError) as error:
        message = str(error)
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert message.isprintable(), message
    assert len(message) < 1000 + len(str(path)), message
    assert peak < _size(path) + SLACK, f"{peak:,} bytes for files of {_size(path):,}"
    return message


def refuses(path):
    """The message of a refusal."""
    with pytest.raises(FileFormatError) as caught:
        load(path)
    assert str(caught.value).isprintable()
    print(caught.value)
    return str(caught.value)
