"""Effects of single tensors. The judges are torch in float64 with one parameter exchanged, and a whole pass
of a model with one parameter exchanged."""

from dataclasses import replace

import numpy as np
import pytest
from support.exports import side_of
from support.sweeps import some_of
from support.tiny_models import CASES, TOKENS, quantise, random_weights, tiny_model, write_folder, write_gguf
from support.torch_models import MODELS, written

from microgpt_trace import load
from microgpt_trace.arrays.logits import divergences
from microgpt_trace.certification import tensor_effects as by_tensor
from microgpt_trace.certification.tensor_effects import tensor_effects
from microgpt_trace.models.packs import UNKNOWN, ReadText
from microgpt_trace.plans.kinds import Choice

TEXTS = (list(TOKENS), [5, 9, 1, 2, 33, 4, 30, 12, 11, 40, 8, 7], [7])


def rounded(weights, size=0.02, seed=1):
    """Return weights with noise, as a coarse type would store them."""
    rng = np.random.RandomState(seed)
    return {
        name: (array + size * array.std() * rng.standard_normal(array.shape)).astype(np.float32)
        for name, array in weights.items()
    }


def tiny_pair(case, folder, size=0.02):
    """Return an export with noise in every tensor, and its original."""
    config, weights = tiny_model(case)
    export = write_folder(folder / "export", config, rounded(weights, size))
    return load(export), load(write_folder(folder / "original", config, weights))


def pair_of_torch(name, folder, size=0.02):
    """Return an export with noise in every parameter, and its original, as transformers writes them."""
    torch = pytest.importorskip("torch")
    model = written(name, folder / "original")
    noisy = rounded({key: own.detach().numpy() for key, own in model.named_parameters()}, size)
    for key, parameter in model.named_parameters():
        parameter.data = torch.tensor(noisy[key])
    model.save_pretrained(folder / "export")
    return load(folder / "export"), load(folder / "original")


def effects(export, original, confirm=None, texts=TEXTS, **options):
    reads = [ReadText(np.array([*text, UNKNOWN])) for text in texts]
    found = tensor_effects(side_of(export), side_of(original), reads, confirm, **options)
    return {effect.name: effect for effect in found}


def passes(model):
    """Return the logits of whole passes of the texts."""
    return [model.logits(model.read(tokens=text), range(len(text))) for text in TEXTS]


def kl_of_passes(before, changed):
    """Return the mean KL of the passes of the original and of a changed model."""
    pairs = zip(before, passes(changed), strict=True)
    return np.concatenate([divergences(*pair) for pair in pairs]).mean()


def spearman(a, b):
    ranks = [np.argsort(np.argsort(values)) for values in (a, b)]
    return np.corrcoef(ranks)[0, 1]


@pytest.mark.parametrize("case", some_of(["llama_tied", "qwen2", "qwen3", "mistral_window"], 2))
def test_exact_effects_are_those_of_torch_in_float64(case, tmp_path):
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    export, original = tiny_pair(case, tmp_path)
    found = effects(export, original)
    assert found.keys() == original.tensors.keys()
    folders = (tmp_path / "original", tmp_path / "export")
    models = [transformers.AutoModelForCausalLM.from_pretrained(own).double() for own in folders]
    states = [model.state_dict() for model in models]

    def log_probs(state):
        models[0].load_state_dict(state)
        with torch.no_grad():
            return [models[0](torch.tensor([text])).logits[0].log_softmax(-1) for text in TEXTS]

    before = [{name: own.clone() for name, own in state.items()} for state in states]
    whole = log_probs(before[0])
    for name, effect in found.items():
        key = original.tensors[name].name
        changed = before[0] | {key: before[1][key]}
        if case == "llama_tied" and name == "wte":
            changed["lm_head.weight"] = before[1][key]
        terms = [(a.exp() * (a - b)).sum(-1) for a, b in zip(whole, log_probs(changed), strict=True)]
        expected = float(torch.cat(terms).mean())
        print(name, effect.kl, expected)
        assert effect.kl == pytest.approx(expected, rel=2e-3, abs=1e-9)


@pytest.mark.parametrize("name", some_of(list(MODELS), 20, sweep=5))
def test_effects_of_every_architecture_are_those_of_whole_passes(name, tmp_path):
    export, original = pair_of_torch(name, tmp_path)
    found, before = effects(export, original), passes(original)
    assert found.keys() == original.tensors.keys()
    for parameter, effect in found.items():
        tensors = {**original.tensors, parameter: export.tensors[parameter]}
        expected = kl_of_passes(before, replace(original, tensors=tensors))
        print(parameter, effect.kl, expected)
        assert effect.kl == pytest.approx(expected, rel=5e-3, abs=1e-8)
    assert sum(effect.share for effect in found.values()) == pytest.approx(1)


@pytest.mark.parametrize("name", some_of(list(MODELS), 18, sweep=6))
def test_estimates_approach_the_effects_of_small_changes(name, tmp_path, monkeypatch):
    monkeypatch.setattr(by_tensor, "SAMPLES", 400)
    export, original = pair_of_torch(name, tmp_path, 0.005)
    found = effects(export, original, confirm=1000).values()
    pairs = np.array([(own.kl, own.estimate) for own in found if own.kl > 1e-8])
    print(name, spearman(*pairs.T), np.sort(pairs[:, 1] / pairs[:, 0]))
    if not original.plan.of_kind(Choice):  # gradients do not see that other experts are chosen
        assert spearman(*pairs.T) > 0.95
    assert np.abs(np.median(pairs[:, 1] / pairs[:, 0]) - 1) < 0.1


@pytest.mark.parametrize("case", some_of(list(CASES), 7, sweep=2))
def test_estimates_find_the_largest_effects(case, tmp_path):
    models = tiny_pair(case, tmp_path)
    exact, found = effects(*models), effects(*models, confirm=3)
    confirmed = {name for name, own in found.items() if own.kl is not None}
    rank = spearman([own.kl for own in exact.values()], [found[name].estimate for name in exact])
    print(case, rank, confirmed, list(exact)[:5])
    assert rank > 0.9
    assert len(confirmed) == 3
    for name in confirmed:
        assert found[name].kl == pytest.approx(exact[name].kl, rel=1e-3)


def test_a_quantised_gguf_has_the_effects_of_its_types(tmp_path):
    pytest.importorskip("gguf")
    config = CASES["llama_gqa"] | {"intermediate_size": 64}
    weights = random_weights(config, "gguf")
    original = load(write_folder(tmp_path / "original", config, weights))
    blocks = quantise(weights, "Q4_0")
    export = load(write_gguf(tmp_path / "export.gguf", config, blocks))  # with permuted rows of q and k
    found, before = effects(export, original), passes(original)
    for name, effect in found.items():
        tensors = {**original.tensors, name: export.tensors[name]}
        expected = kl_of_passes(before, replace(original, tensors=tensors))
        print(name, effect.type, effect.kl, expected)
        assert effect.type == ("F32" if "norm" in name else "Q4_0")
        assert effect.kl == pytest.approx(expected, rel=1e-3)
    assert {name for name, effect in found.items() if effect.kl == 0} == {n for n in found if "norm" in n}


def test_equal_tensors_have_no_effect(tmp_path):
    export, original = tiny_pair("qwen2", tmp_path)
    same = effects(replace(original, tensors=original.tensors | {"wte": export.tensors["wte"]}), original)
    assert [name for name, own in same.items() if own.kl] == ["wte"]
    assert (same["wte"].share, same["lm_head"].kl, same["lm_head"].share) == (1, 0, 0)
    assert {own.kl for own in effects(original, original).values()} == {0}


def test_a_head_that_only_the_export_writes_out_is_measured_alone(tmp_path):
    config, weights = tiny_model("llama_tied")
    original = load(write_folder(tmp_path / "original", config, weights))
    noisy = rounded(weights)
    written_out = {**weights, "lm_head.weight": noisy["model.embed_tokens.weight"]}
    export = load(write_folder(tmp_path / "export", config | {"tie_word_embeddings": False}, written_out))
    found = effects(export, original)
    expected = kl_of_passes(passes(original), export)
    print(found["lm_head"].kl, expected)
    assert found["lm_head"].kl == pytest.approx(expected, rel=1e-4)
    assert found["wte"].kl == 0


def test_rows_that_fill_up_the_vocabulary_are_dropped(tmp_path):
    config, weights = tiny_model("llama_gqa")
    noisy = rounded(weights)
    padded = {
        name: np.concatenate([own, np.zeros((3, 32), np.float32)]) if len(own) == 61 else own
        for name, own in noisy.items()
    }
    original = load(write_folder(tmp_path / "original", config, weights))
    plain = load(write_folder(tmp_path / "plain", config, noisy))
    export = load(write_folder(tmp_path / "export", config | {"vocab_size": 64}, padded))
    assert effects(export, original) == effects(plain, original)


@pytest.mark.parametrize("confirm", [None, 2])
def test_an_interrupt_returns_what_is_known(confirm, tmp_path):
    models, calls = tiny_pair("llama_gqa", tmp_path), []

    def report(done, total):
        calls.append((done, total))
        if done == total - 1:
            raise KeyboardInterrupt

    found = effects(*models, confirm, report=report)
    print(calls)
    assert all((own.kl if confirm is None else own.estimate) > 0 for own in found.values())

    def at_once(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        effects(*models, confirm, report=at_once)
