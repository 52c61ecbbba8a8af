"""Dumps in the styles of other engines: the same numbers under their names and in their shapes."""

import numpy as np
import pytest
from support.faulty_engine import decoder_run
from support.foreign_dumps import STYLES, write_dump
from support.tiny_models import TOKENS, tiny_model


def dumped(folder, case, style, **options):
    """The events of a case, and what a dump has of them, by file."""
    events = decoder_run(*tiny_model(case), TOKENS)
    files = write_dump(folder, events, style, **options)
    assert sorted(p.name for p in folder.iterdir()) == sorted(files.values())
    return events, {event: np.load(folder / file) for event, file in files.items()}, files


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("case", ["qwen3", "llama_head_dim"])
def test_a_dump_holds_the_same_numbers(style, case, tmp_path):
    events, arrays, _ = dumped(tmp_path / "dump", case, style)
    for event, array in arrays.items():
        seen = np.isfinite(array)
        np.testing.assert_array_equal(array[seen], events[event].reshape(array.shape)[seen])


@pytest.mark.parametrize(
    ("style", "event", "file", "shape"),
    [
        ("ours", "layer1.attn.q", "layer1.attn.q", (7, 48)),
        ("numbers", "embed.tok", "t000", (7, 32)),
        ("numbers", "layer0.attn.q_norm", "t005", (7, 48)),
        ("huggingface", "layer1.attn.q", "model.layers.1.self_attn.q_proj", (1, 7, 48)),
        ("huggingface", "layer0.attn.q_norm", "model.layers.0.self_attn.q_norm", (1, 7, 4, 12)),
        ("huggingface", "layer0.attn.context", "model.layers.0.self_attn.o_proj.input", (1, 7, 48)),
        ("huggingface", "layer1.mlp.residual", "model.layers.1", (1, 7, 32)),
        ("llama.cpp", "layer0.attn.k_rope", "Kcur-0", (7, 2, 12)),
        ("llama.cpp", "logits", "result_output", (7, 61)),
        ("transformerlens", "layer0.attn.k", "blocks.0.attn.hook_k", (1, 7, 2, 12)),
        ("transformerlens", "layer1.attn.scores", "blocks.1.attn.hook_attn_scores", (1, 4, 7, 7)),
    ],
)
def test_names_and_shapes_of_a_style(style, event, file, shape, tmp_path):
    _, arrays, files = dumped(tmp_path, "qwen3", style)
    assert files[event] == f"{file}.npy"
    assert arrays[event].shape == shape


def test_adjacent_channels_are_those_of_gguf(tmp_path):
    events, arrays, _ = dumped(tmp_path, "llama_gqa", "llama.cpp", adjacent=True)
    ours, theirs = events["layer0.attn.q_rope"].reshape(7, 4, 8), arrays["layer0.attn.q_rope"]
    np.testing.assert_array_equal(theirs[..., ::2], ours[..., :4])
    np.testing.assert_array_equal(theirs[..., 1::2], ours[..., 4:])
