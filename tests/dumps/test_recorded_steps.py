"""Record several passes of models of transformers: cached steps, chunks and padded batches agree with one
pass over each text, and with hooks that are written by hand."""

import json
from contextlib import suppress

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file
from support.sweeps import in_sweep
from support.torch_models import MODELS, torch_model

from microgpt_trace import record
from microgpt_trace.errors import InputError

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
pytestmark = pytest.mark.filterwarnings("ignore:.*is deprecated:FutureWarning")

IDS = torch.tensor([[3, 17, 44, 3, 60, 0, 29, 5, 8]])
BATCH = torch.tensor([[1, 1, 1, 17, 44, 3], [3, 17, 44, 3, 60, 0]])
MASK = torch.tensor([[0, 0, 0, 1, 1, 1], [1, 1, 1, 1, 1, 1]])
WHOLE = {"input_ids", "attention_mask", "position_ids"}
ALWAYS = ("llama", "gpt2", "gpt_neox", "gemma3_text")
every_model = pytest.mark.parametrize("name", [n if n in ALWAYS else in_sweep(n, whole=True) for n in MODELS])


def generate(model, ids, **options):
    return model.generate(ids, max_new_tokens=3, min_new_tokens=3, do_sample=False, pad_token_id=1, **options)


def steps_of(folder):
    """Return the arrays of each file in order, and check that the folder contains nothing else."""
    paths = [folder / f"step{i}.safetensors" for i in range(len(list(folder.iterdir())))]
    return [load_file(path) for path in paths]


def one_pass(model, ids, path, **inputs):
    with record(model, path, force=True):
        model(ids, **inputs)
    return load_file(path)


def assert_rows(found, whole, rows, first_key=0):
    """Check that a pass has the rows of a whole pass. Logits may be those of the last rows only."""
    assert found.keys() - WHOLE == whole.keys()
    for name, array in whole.items():
        kept = rows.stop - first_key if name.endswith("attn.weights") else None
        expected = array[..., rows, :kept] if kept else array[rows]
        if name.startswith("logits"):
            expected = expected[-len(found[name]) :]
        assert found[name].shape == expected.shape, name
        error = np.linalg.norm(found[name] - expected) / np.linalg.norm(expected)
        assert error < 2e-5, f"{name}: relative L2 {error:.1e}"


@torch.no_grad()
@every_model
def test_chunks_and_decoding_steps_have_the_rows_of_one_pass(name, tmp_path):
    model = torch_model(name)
    with record(model, tmp_path / "chunks", steps=True):
        cache = None
        for chunk in IDS.split(3, 1):
            cache = model(chunk, past_key_values=cache, use_cache=True).past_key_values
    with record(model, tmp_path / "decoded", steps=True):
        text = generate(model, IDS[:, :6])[:, :-1]
    for folder, ids, lengths in (("chunks", IDS, [3, 3, 3]), ("decoded", text, [6, 1, 1])):
        whole, start = one_pass(model, ids, tmp_path / "whole.safetensors"), 0
        steps = steps_of(tmp_path / folder)
        assert [step["input_ids"].shape for step in steps] == [(1, length) for length in lengths]
        for step in steps:
            rows = slice(start, start + step["input_ids"].size)
            assert_rows(step, whole, rows)
            assert step["input_ids"].tolist() == ids[:, rows].tolist()
            assert step["position_ids"].tolist() == [list(range(rows.start, rows.stop))]
            start = rows.stop


@torch.no_grad()
@every_model
def test_rows_of_a_padded_batch_agree_with_each_text(name, tmp_path):
    model, positions = torch_model(name), (MASK.cumsum(1) - 1).clamp(min=0)
    with record(model, tmp_path / "batch", steps=True):
        model(BATCH, attention_mask=MASK, position_ids=positions)
        model(BATCH.flip(1), attention_mask=MASK.flip(1))
    left, right = steps_of(tmp_path / "batch")
    assert (left["attention_mask"].tolist(), left["position_ids"].tolist()) == (
        MASK.tolist(),
        positions.tolist(),
    )
    assert right["attention_mask"].dtype == right["input_ids"].dtype == np.int64
    counted = name == "llama4_text"  # transformers counts rows of padding in the factor of the queries
    for row, pads in ((1, 0),) if counted else ((0, 3), (1, 0)):
        alone = one_pass(model, BATCH[row : row + 1, pads:], tmp_path / "one.safetensors")
        kept = {name: array[row] for name, array in left.items()}
        for name, array in kept.items():
            kept[name] = array[..., pads:, pads:] if name.endswith("attn.weights") else array[pads:]
        assert_rows(kept, alone, slice(0, 6 - pads))
        alone = one_pass(model, BATCH.flip(1)[row : row + 1, : 6 - pads], tmp_path / "one.safetensors")
        kept = {
            name: array[row][..., : 6 - pads, :][..., : 6 - pads if name.endswith("weights") else None]
            for name, array in right.items()
            if name not in WHOLE
        }
        assert_rows(kept, alone, slice(0, 6 - pads))


def test_arrays_are_those_of_hooks_written_by_hand(tmp_path):
    model, seen, masks = torch_model("llama"), [], []
    model.model.layers[1].mlp.down_proj.register_forward_hook(
        lambda m, args, out: seen.append(out.numpy().copy())
    )
    model.model.register_forward_pre_hook(
        lambda m, args, kwargs: masks.append(kwargs["attention_mask"].tolist()), with_kwargs=True
    )
    with record(model, tmp_path / "batch", steps=True) as recording:
        generate(model, BATCH, attention_mask=MASK)
    steps = steps_of(tmp_path / "batch")
    assert [step["layer1.mlp.down"].tolist() for step in steps] == [array.tolist() for array in seen]
    assert [step["attention_mask"].tolist() for step in steps] == masks
    assert [step["layer0.attn.weights"].shape for step in steps] == [(2, 4, 6, 6), (2, 4, 1, 7), (2, 4, 1, 8)]
    assert [step["logits"].shape for step in steps] == [(2, 1, 61)] * 3
    with safe_open(tmp_path / "batch" / "step0.safetensors", "numpy") as file:
        metadata = file.metadata()
    found = (metadata["format"], json.loads(metadata["tokens"]), json.loads(metadata["positions"]))
    assert found == ("microgpt.arrays/1", [], [5])
    assert recording.tokens == ()


def test_weights_over_a_static_cache_have_only_the_keys_so_far(tmp_path):
    from transformers import StaticCache

    model = torch_model("llama")
    cache = StaticCache(config=model.config, max_cache_len=12)
    with record(model, tmp_path / "static", steps=True), torch.no_grad():
        model(IDS[:, :4], past_key_values=cache)
        model(IDS[:, 4:], past_key_values=cache)
    whole = one_pass(model, IDS, tmp_path / "whole.safetensors")
    for step, rows in zip(steps_of(tmp_path / "static"), (slice(0, 4), slice(4, 9)), strict=True):
        assert_rows(step, whole, rows)


def test_writes_the_folder_completely_or_not_at_all(tmp_path):
    model, folder = torch_model("llama"), tmp_path / "steps"
    with pytest.raises(AttributeError), record(model, folder, steps=True):
        generate(model, IDS).missing()
    assert list(tmp_path.iterdir()) == []
    with record(model, folder, steps=True):
        generate(model, IDS)
    with pytest.raises(InputError, match="expected a new or an empty folder, found 'step"):
        record(model, folder, steps=True).__enter__()
    (folder / "mine.txt").write_text("mine")
    with record(model, folder, steps=True, force=True), torch.no_grad():
        model(IDS[:, :2])
    assert sorted(path.name for path in folder.iterdir()) == ["mine.txt", "step0.safetensors"]
    assert load_file(folder / "step0.safetensors")["input_ids"].tolist() == IDS[:, :2].tolist()


def interrupted(model):
    handle = model.model.layers[2].register_forward_pre_hook(lambda *_: 1 / 0)
    with suppress(ZeroDivisionError):
        model(IDS)
    handle.remove()
    model(IDS)


@pytest.mark.parametrize(
    ("name", "run", "message"),
    [
        ("gpt2", lambda m: m(IDS, token_type_ids=IDS), "expected one forward pass"),
        ("llama", interrupted, "expected one forward pass, found a second pass"),
        (
            "llama",
            lambda m: (m(IDS), m(inputs_embeds=torch.zeros(1, 3, 32))),
            "input_ids as the model's input",
        ),
        ("llama", lambda m: m(IDS, attention_mask=torch.zeros(1, 1, 9, 9)), "found shape"),
        ("llama", lambda m: None, "made no forward pass"),
    ],
)
def test_rejects_incomplete_passes(name, run, message, tmp_path):
    model = torch_model(name)
    with pytest.raises(InputError, match=message), record(model, tmp_path / "steps", steps=True):
        run(model)
    assert list(tmp_path.iterdir()) == []


def test_finds_cached_tokens_of_gpt_neox_without_steps(tmp_path):
    """Its layers call the cache layer_past."""
    model = torch_model("gpt_neox")
    cache = model(IDS[:, :3], use_cache=True).past_key_values
    with pytest.raises(InputError, match="found a cache with earlier tokens; steps=True"):
        one_pass(model, IDS, tmp_path / "run", past_key_values=cache, position_ids=torch.arange(9)[None])
