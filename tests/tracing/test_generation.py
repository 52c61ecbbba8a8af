"""Check continuations: greedy tokens against full passes in float64, the cache check, sampling, limits."""

import numpy as np
import pytest
from support.faulty_engine import decoder_run
from support.judges_decoder import softmax as probabilities
from support.tiny_models import CASES, TOKENS, random_weights
from support.tiny_tokenizer import TINY_TOKENS

from microgpt_trace import load, trace
from microgpt_trace.errors import InputError
from microgpt_trace.operations import pass_state as shared
from microgpt_trace.operations import softmax
from microgpt_trace.operations.pass_state import KVCache
from microgpt_trace.tracing import generation

COUNT = 12
KINDS = ["llama_mha_bias", "llama_yarn", "mistral_window", "qwen2_window", "qwen3"]


def run(model, generate=COUNT, **options):
    return trace(model, tokens=list(TOKENS), generate=generate, **options)


def ids_of(traced):
    return [step.token.token for step in traced.generation]


def cache_check(traced):
    return next(check for check in traced.checks if check.id == "cache")


@pytest.mark.parametrize("case", KINDS)
def test_greedy_tokens_are_the_argmax_of_full_passes(decoder_folder, case):
    traced, ids = run(load(decoder_folder(case, eos="<unk>"))), [*TOKENS]
    weights = random_weights(CASES[case], case)
    for step in traced.generation:
        probs = probabilities(decoder_run(CASES[case], weights, ids)["logits"][-1])
        print(step.step, step.token.token, step.token.p, probs.max())
        assert (step.position, step.token.token) == (len(ids), probs.argmax())
        assert step.token.p == pytest.approx(probs.max(), rel=1e-4)
        ids.append(step.token.token)
    assert len(traced.generation) == COUNT or ids[-1] == 0
    assert cache_check(traced).holds
    assert traced.ok


def test_runners_up_are_the_next_most_probable_tokens(tiny):
    for step in run(tiny, top_k=4).generation:
        best = [step.token, *step.runners_up]
        assert len(best) == len({c.token for c in best}) == 5
        assert [c.p for c in best] == sorted((c.p for c in best), reverse=True)
        assert [c.label for c in best] == [TINY_TOKENS[c.token].replace("Ġ", " ") for c in best]


def test_one_token_needs_no_decode_step(tiny):
    traced = run(tiny, generate=1)
    assert len(traced.generation) == 1
    assert cache_check(traced).holds is None
    assert "no decode step" in cache_check(traced).detail


@pytest.mark.parametrize("case", ["llama_gqa", "qwen3"])
def test_the_check_finds_a_cache_that_forgets_a_layer(decoder_folder, monkeypatch, case):
    sound = KVCache.extend

    def extend(self, name, new):
        seen = sound(self, name, new)
        return seen * 0 if self.length and name == "layer1.attn.k_rope" else seen

    monkeypatch.setattr(KVCache, "extend", extend)
    traced = run(load(decoder_folder(case)), generate=3)
    print(cache_check(traced))
    assert cache_check(traced).holds is False
    assert not traced.ok


def test_the_check_finds_positions_that_restart_at_zero(tiny, monkeypatch):
    sound = shared.rope_turns
    monkeypatch.setattr(shared, "rope_turns", lambda r, d, p, dtype: sound(r, d, p - p[0], dtype))
    assert cache_check(run(tiny, generate=3)).holds is False


def test_the_check_finds_a_window_that_decoding_ignores(decoder_folder, monkeypatch):
    sound = softmax.seen_keys
    monkeypatch.setattr(softmax, "seen_keys", lambda t, s, w: sound(t, s, w if t == s else None))
    monkeypatch.setattr(shared.QueryBlock, "first", lambda block, window: 0)
    assert cache_check(run(load(decoder_folder("mistral_window")), generate=3)).holds is False


@pytest.mark.parametrize("everywhere", [True, False])
def test_the_cache_is_not_checked_if_hooks_replaced_values(tiny, everywhere):
    """A hook replaces values in every pass, or only in the prompt."""
    with tiny.hooks.subscribe(lambda e, v: v * 2 if everywhere or len(v) > 1 else None, "layer0.attn.k"):
        check = cache_check(run(tiny, generate=3))
    assert (check.holds, check.detail) == (None, "hooks replaced values")


def only_7(event, value):
    return np.where(np.arange(61) == 7, value * 0 + 1, value * 0)


@pytest.mark.parametrize(
    ("name", "positions", "rows", "own"),  # own: the calls for the first token
    [("layer1.mlp.down", "all", 7, 0), ("logits", "all", 7, 0), ("probs", "last", 1, 0),
     ("logits", [0, 3], 2, 1), ("probs", [2, -1], 2, 0)],
)  # fmt: skip
def test_a_hook_is_called_once_per_pass_and_changes_nothing(tiny, name, positions, rows, own):
    lengths = []
    with tiny.hooks.subscribe(lambda e, v: lengths.append(len(v)), name):
        found = run(tiny, generate=4, positions=positions).generation
    print(lengths)
    assert lengths == [rows] + [1] * (own + 3)
    assert found == run(tiny, generate=4, positions=positions).generation


@pytest.mark.parametrize(
    ("name", "positions"), [("probs", "all"), ("logits", "last"), ("logits", [0, -1]), ("logits", [0])]
)
def test_replaced_logits_or_probs_choose_every_token(tiny, name, positions):
    with tiny.hooks.subscribe(only_7, name):
        steps = run(tiny, generate=3, positions=positions).generation
    assert [s.token.token for s in steps] == [7] * 3
    assert name == "logits" or {s.token.p for s in steps} == {1.0}


def test_the_same_seed_samples_the_same_tokens(tiny):
    samples = [ids_of(run(tiny, temperature=1.0, seed=seed)) for seed in (0, 0, 1, 2)]
    print(samples)
    assert samples[0] == samples[1]
    assert len(set(map(tuple, samples))) == 3


@pytest.mark.parametrize("temperature", [0, 1e-30, 5e-324])
def test_a_tiny_temperature_is_greedy(tiny, temperature):
    """1 / 5e-324 overflows a float."""
    assert ids_of(run(tiny, temperature=temperature)) == ids_of(run(tiny))


@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_tokens_are_sampled_by_their_probabilities(temperature):
    rng, logits = np.random.default_rng(3), np.array([0.0, 1.0, 2.5, -1.0], np.float32)
    samples = [generation._sample(logits, temperature, rng) for _ in range(4000)]
    found, expected = np.bincount(samples, minlength=4) / 4000, probabilities(logits / temperature)
    print(found, expected)
    np.testing.assert_allclose(found, expected, atol=4 * 0.5 / 4000**0.5)


@pytest.mark.parametrize(
    ("option", "value"), [("temperature", -1.0), ("temperature", float("nan")), ("generate", -1)]
)
def test_refuses_invalid_sampling_options(tiny, option, value):
    with pytest.raises(InputError, match=option):
        run(tiny, **{option: value})


def test_generation_ends_with_eos(tiny, decoder_folder):
    ids = ids_of(run(tiny))
    eos = next(token for token in ids[2:] if token not in ids[:2])
    traced = run(load(decoder_folder(eos=TINY_TOKENS[eos])))
    print(ids, eos)
    assert ids_of(traced) == ids[: ids.index(eos) + 1]
    assert traced.generation_end == f"the model ended its text with {traced.generation[-1].token.label}"
    assert run(tiny, generate=2).generation_end == ""


def test_refuses_more_tokens_than_the_context_holds(tiny):
    room = 64 - len(TOKENS)
    with pytest.raises(
        InputError, match=f"holds at most 64 tokens, found 7 tokens and {room + 1} to generate"
    ):
        run(tiny, generate=room + 1)
    traced = run(tiny, generate=room)
    assert traced.generation[-1].position <= 63


def test_a_step_shows_one_row_of_every_event(tiny):
    first, *steps = run(tiny, names=["*"], generate=4).generation
    assert first.events == ()  # the Trace has the events of the prompt
    names = [name for name in tiny.hooks.specs if name != "loss"]
    for step in steps:
        shapes = {event.name: event.shape for event in step.events}
        assert list(shapes) == names
        assert shapes["layer0.attn.scores"] == shapes["layer1.attn.weights"] == (4, 1, step.position)
        assert {
            shape[0] for name, shape in shapes.items() if ".scores" not in name and ".weights" not in name
        } == {1}
        assert shapes["layer1.mlp.up"] == (1, 48)
        assert shapes["logits"] == (1, 61)
    for step in run(tiny, names=["layer1.mlp.norm", "logits"], generate=3).generation[1:]:
        assert [event.name for event in step.events] == ["layer1.mlp.norm", "logits"]


def test_a_step_has_the_statistics_of_its_row(tiny):
    """The judge is a trace of the whole text, in which the last query sees all keys."""
    continued = run(tiny, generate=4, names=["*"])
    ids = [*TOKENS, *ids_of(continued)]
    whole = trace(tiny, tokens=ids[:-1], names=["*"], values=True)
    for event in continued.generation[-1].events:
        array = whole[event.name]
        row = (array[:, -1] if array.ndim == 3 else array[-1]).astype(np.float64)
        found, expected = event.stats, (row.mean(), row.std(), np.linalg.norm(row), row.min(), row.max())
        moments = found.mean, found.std, found.l2_norm, found.min, found.max
        np.testing.assert_allclose(moments, expected, rtol=1e-4, atol=1e-5, err_msg=event.name)


@pytest.mark.parametrize("values", [["*"], ["embed.tok", "layer1.mlp.down"]])
def test_kept_arrays_belong_to_the_prompt(tiny, values):
    alone, continued = (run(tiny, names=["*"], values=values, generate=n) for n in (0, 3))
    assert (continued.events, continued.predictions) == (alone.events, alone.predictions)
    assert continued.generation[0].token.token == alone.predictions[-1].predicted.token
    assert alone.generation == ()
    assert alone.arrays.keys() == continued.arrays.keys()
    for key, array in alone.arrays.items():
        np.testing.assert_array_equal(continued.arrays[key], array)
    for step in continued.generation[1:]:
        assert [event.name for event in step.events] == [n for n in tiny.hooks.specs if n != "loss"]
