"""Read the recordings of tensor-parallel ranks as one recording. The parts of each rank are computed with
torch: columns of outputs, and products of a part of the inputs with a part of the matrix."""

import numpy as np
import pytest
from support.dump_writing import write_npz
from support.torch_models import torch_model

from microgpt_trace import diagnose, diff, load
from microgpt_trace.dumps.formats import open_recording
from microgpt_trace.errors import FileFormatError, InputError
from microgpt_trace.naming.user_map import read_map

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

IDS = torch.tensor([[3, 17, 44, 3, 60, 0, 29, 5, 8]])
SPLIT = ("q_proj", "k_proj", "v_proj", "gate_proj", "up_proj", "act_fn", "c_fc", "act", "lm_head")
SUMMED, EMBEDDING = ("o_proj", "down_proj", "c_proj"), ("embed_tokens", "wte")
FUSED = {"qkv_proj": ["q_proj", "k_proj", "v_proj"], "gate_up_proj": ["gate_proj", "up_proj"]}
MADE = {}


@pytest.fixture(scope="module", params=["llama", "gpt2", "qwen2"])
def name(request):
    return request.param


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Return a function that writes a model of two layers, and returns the model of torch and ours."""

    def made(name):
        if name not in MADE:
            model = torch_model(name, {"vocab_size": 64, "num_hidden_layers": 2, "n_layer": 2})
            model.save_pretrained(folder := tmp_path_factory.mktemp(name))
            MADE[name] = model, load(folder)
        return MADE[name]

    return made


@torch.no_grad()
def run(model):
    """Return the inputs and outputs of all leaf modules and layers, [T, C], and the attention weights."""
    seen, hooks = {}, []

    def keep(path):
        def hook(module, args, output):
            first = output[0] if isinstance(output, tuple) else output
            seen[path] = module, args[0][0] if args else None, first[0]
            if path.endswith((".self_attn", ".attn")):
                layer = path.split(".")[-2]
                seen[f"layer{layer}.attn.weights"] = module, None, output[1]

        return hook

    for path, module in model.named_modules():
        layer = path.split(".")[-1].isdigit()
        leaf = not [*module.children()] and not path.endswith(("rotary_emb", "drop", "dropout"))
        if layer or leaf or path.endswith((".self_attn", ".attn")):
            hooks.append(module.register_forward_hook(keep(path)))
    model(IDS)
    for hook in hooks:
        hook.remove()
    return seen


def columns(values, rank, ranks, heads=None):
    """Return a rank's part of the last axis. With fewer `heads` than ranks, several ranks have the same."""
    width = values.shape[-1] // (min(ranks, heads) if heads else ranks)
    at = rank * min(ranks, heads) // ranks if heads else rank
    return values[..., at * width : (at + 1) * width]


@torch.no_grad()
def part_of(model, seen, rank, ranks, fused=False, reduced=False):
    """Return what a rank records. With `reduced`, sums over ranks are recorded after the all-reduce."""
    config, found = model.config, {}
    groups = getattr(config, "num_key_value_heads", config.num_attention_heads)
    for path, (module, given, output) in seen.items():
        last = path.split(".")[-1]
        if last in ("self_attn", "attn"):
            continue
        if last == "weights":
            found[path] = output[:, rank * 4 // ranks : (rank + 1) * 4 // ranks]
        elif last in SPLIT:
            found[path] = columns(output, rank, ranks, groups if last in ("k_proj", "v_proj") else None)
        elif last == "c_attn":
            found[path] = torch.cat([columns(own, rank, ranks) for own in output.chunk(3, -1)], -1)
        elif last in SUMMED and not reduced:
            weight = module.weight if last != "c_proj" else module.weight.T
            found[path] = columns(given, rank, ranks) @ columns(weight, rank, ranks).T
            if module.bias is not None and rank == 0:
                found[path] += module.bias
        elif last in EMBEDDING and not reduced:
            found[path] = output * (IDS[0] * ranks // 64 == rank)[:, None]
        else:
            found[path] = output
        if last in ("o_proj", "c_proj") and "mlp" not in path:
            found[f"{path}.input"] = columns(given, rank, ranks)
    if fused:  # in vLLM and SGLang, act_fn has the product with up, and a layer returns two values
        for path in [own for own in found if own.endswith("act_fn") or own.split(".")[-1].isdigit()]:
            del found[path]
        for joined, parts in FUSED.items():
            for path in [own for own in found if own.endswith(parts[0])]:
                own = [found.pop(path.replace(parts[0], part)) for part in parts]
                found[path.replace(parts[0], joined)] = torch.cat(own, -1)
    return {key: value.numpy() for key, value in found.items()} | {"input_ids": IDS.numpy()[0]}


def write(folder, parts, spelled="rank{}.npz"):
    for rank, arrays in enumerate(parts):
        path = folder / spelled.format(rank)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_npz(path, arrays)
    return folder


@pytest.mark.parametrize("ranks", [2, 4])
@pytest.mark.parametrize("how", [{}, {"reduced": True}, {"fused": True}])
def test_the_ranks_of_a_right_run_agree_with_the_model(name, ranks, how, models, tmp_path):
    model, ours = models(name)
    seen = run(model)
    path = write(tmp_path / "run", [part_of(model, seen, rank, ranks, **how) for rank in range(ranks)])
    compared = diff(ours, path)
    print(compared.b.notes, compared.b.unpaired)
    assert compared.agree
    assert not compared.b.unpaired
    found = diagnose(path, ours).diagnosis
    assert found.clean
    assert found.judged > 20


LAYER = "model.layers.0"


def diagnosed(models, change, tmp_path, ranks=2, name="llama", **how):
    """Change what the ranks record, and return the diagnosis and the comparison with the model."""
    model, ours = models(name)
    seen = run(model)
    parts = [part_of(model, seen, rank, ranks, **how) for rank in range(ranks)]
    change(parts, model, seen)
    path = write(tmp_path / "run", parts)
    found, compared = diagnose(path, ours).diagnosis, diff(ours, path)
    print(found.first_wrong, [f.claim for f in found.findings], compared.b.notes)
    return found, compared


def claim(found, event):
    assert found.first_wrong == event
    assert found.findings[0].explains
    return found.findings[0].claim


@torch.no_grad()
def test_a_stale_matrix_on_one_rank_is_named(models, tmp_path):
    def stale(parts, model, seen):
        given, other = seen[f"{LAYER}.mlp.up_proj"][1], model.model.layers[1].mlp.up_proj.weight
        parts[1][f"{LAYER}.mlp.up_proj"] = columns(given @ other.T, 1, 2).numpy()

    found, _ = diagnosed(models, stale, tmp_path)
    words = claim(found, "layer0.mlp.up")
    assert "all wrong columns (24 to 47) belong to rank 1" in words
    assert "layer 1" in words


@pytest.mark.parametrize("how", [{}, {"fused": True}])
@torch.no_grad()
def test_an_unknown_error_of_a_key_head_is_named_with_its_ranks(how, models, tmp_path):
    def noise(parts, model, seen):
        key = f"{LAYER}.self_attn.{'qkv_proj' if how else 'k_proj'}"
        for rank in (2, 3):
            parts[rank][key][:, 8:16] += 1 + np.arange(8) if how else 0
            parts[rank][key][:, :8] += 0 if how else 1 + np.arange(8)

    found, _ = diagnosed(models, noise, tmp_path, ranks=4, **how)
    assert "all wrong columns (8 to 15) belong to ranks 2 to 3" in claim(found, "layer0.attn.k")


@pytest.mark.parametrize("name", ["llama", "gpt2"])
@torch.no_grad()
def test_a_wrong_part_of_a_sum_is_named(name, models, tmp_path):
    def negated(parts, model, seen):
        key = next(own for own in parts[1] if own.endswith(("down_proj", "mlp.c_proj")))
        parts[1][key] *= -1

    found, _ = diagnosed(models, negated, tmp_path, name=name)
    assert "the part of rank 1" in claim(found, "layer0.mlp.down")
    assert "wrong sign" in found.findings[0].claim


@torch.no_grad()
def test_a_rank_that_is_missing_in_a_sum_is_named(models, tmp_path):
    def missing(parts, model, seen):
        path = f"{LAYER}.self_attn.o_proj"
        module, given, output = seen[path]
        lost = columns(given, 2, 4) @ columns(module.weight, 2, 4).T
        for part in parts:
            part[path] = (output - lost).numpy()

    found, _ = diagnosed(models, missing, tmp_path, ranks=4, reduced=True)
    assert "the part of rank 2 is missing" in claim(found, "layer0.attn.out")


def test_ranks_with_the_heads_of_other_ranks_are_named(models, tmp_path):
    def exchanged(parts, model, seen):
        key = f"{LAYER}.self_attn.q_proj"
        parts[0][key], parts[1][key] = parts[1][key], parts[0][key]

    found, compared = diagnosed(models, exchanged, tmp_path)
    print(claim(found, "layer0.attn.q"))
    assert "heads" in claim(found, "layer0.attn.q")
    assert compared.first == "layer0.attn.q"


def test_a_norm_that_differs_on_one_rank_is_named(models, tmp_path):
    def other(parts, model, seen):
        parts[1][f"{LAYER}.post_attention_layernorm"] = parts[0][f"{LAYER}.post_attention_layernorm"] * 1.01

    found, compared = diagnosed(models, other, tmp_path)
    assert not found.clean
    assert "rank 1 has other values than rank 0" in found.findings[0].claim
    assert compared.first == "layer0.mlp.norm"
    assert any("rank 1 has other values" in note for note in compared.b.notes)


# --- Folders, maps and layouts ------------------------------------------------------------------------


@pytest.mark.parametrize("spelled", ["TP{}_PP0_Rank0_pid7.npz", "tp_rank={}.npz", "step0/rank{}.npz"])
def test_folders_of_ranks_and_of_passes_with_ranks(spelled, models, tmp_path):
    model, ours = models("llama")
    seen = run(model)
    parts = [part_of(model, seen, rank, 2) for rank in range(2)]
    if "step" in spelled:  # a second pass over the last three positions
        for at, step in enumerate(("step0/rank{}.npz", "step1/rank{}.npz")):
            cut = [{k: np.split(v, [6], -min(v.ndim, 2))[at] for k, v in own.items()} for own in parts]
            write(tmp_path / "run", cut, step)
    else:
        write(tmp_path / "run", parts, spelled)
    compared = diff(ours, tmp_path / "run")
    assert compared.agree
    assert not compared.b.unpaired
    assert compared.b.notes[0] == "2 ranks: 5 summed, 7 equal to rounding on all ranks, 17 joined"


def test_two_dumps_of_ranks_agree_without_a_model(models, tmp_path):
    model, _ = models("llama")
    seen = run(model)
    two, four = (
        write(tmp_path / str(n), [part_of(model, seen, rank, n) for rank in range(n)]) for n in (2, 4)
    )
    compared = diff(two, four)
    print(compared.a.notes, compared.b.notes)
    assert compared.agree
    assert len(compared.compared) == 29


def test_values_of_heads_and_of_positions(tmp_path):
    """Heads are joined in [H, T, D] and [T, H, D], and the positions of a norm (sequence parallelism)."""
    rng = np.random.default_rng(1)
    q, norm = rng.standard_normal((6, 4, 8)), rng.standard_normal((6, 32))  # [T, H, D]
    parts = [
        {"layer0.attn.q": own, "layer0.attn.q_rope": own.swapaxes(0, 1), "layer0.attn.norm": rows}
        for own, rows in zip(np.split(q, 2, 1), np.split(norm, 2), strict=True)
    ]
    ids = {"input_ids": np.arange(6)}
    found = open_recording(write(tmp_path / "run", [own | ids for own in parts]))
    read = {name: own.read() for name, own in found.tensors.items()}
    assert np.array_equal(read["layer0.attn.q"], q)
    assert np.array_equal(read["layer0.attn.q_rope"], q.swapaxes(0, 1))
    assert np.array_equal(read["layer0.attn.norm"], norm)
    assert found.notes[0] == "2 ranks: 2 joined, 1 joined by position"


def test_a_map_joins_tensors_of_ranks(tmp_path):
    x = np.arange(24.0).reshape(4, 6)
    parts = [{"x": x[:, :2], "y": x}, {"z": x[:, 2:4], "y": x}, {"x": x[:, 4:], "y": x}]
    path = write(tmp_path / "run", parts)
    line = '"layer0.mlp.up" = { from = ["rank0/x", "rank1/z", "rank2/x"], axis = 1 }'
    (tmp_path / "map.toml").write_text(f"[events]\n{line}")
    found = open_recording(path, read_map(tmp_path / "map.toml"))
    assert np.array_equal(found.tensors["layer0.mlp.up"].read(), x)
    assert [own.recorded.source for own in found.leftovers] == ["y"]


@pytest.mark.parametrize(("line", "words"), [
    ('{ from = ["rank0/x", "rank1/w"], axis = 1 }', ["layer0.mlp.up", "no tensor 'w'"]),
    ('{ from = ["rank0/x", "rank2/x"], axis = 1 }', ["layer0.mlp.up: from", '"rank1/x"']),
    ('{ from = ["rank0/x", "rank1/x"], axis = 2 }', ["layer0.mlp.up: axis", "found 2"]),
    ('{ from = ["rank0/x", "rank1/x"], axis = "1" }', ["layer0.mlp.up", "axis", "found '1'"]),
    ('{ from = ["rank0/x", 3], axis = 1 }', ["layer0.mlp.up", "expected a name"]),
    ('{ from = "x", axis = 1 }', ["layer0.mlp.up", "axis"]),
])  # fmt: skip
def test_a_wrong_line_of_a_map_is_named(line, words, tmp_path):
    path = write(tmp_path / "run", [{"x": np.ones((4, 2))}] * 2)
    (tmp_path / "map.toml").write_text(f'[events]\n"layer0.mlp.up" = {line}')
    with pytest.raises((InputError, FileFormatError)) as caught:
        open_recording(path, read_map(tmp_path / "map.toml"))
    print(caught.value)
    assert "\n" not in str(caught.value)
    assert all(word in str(caught.value) for word in words)
