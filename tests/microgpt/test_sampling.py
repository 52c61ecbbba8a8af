"""Check sampled names: greedy, seeded, with a prefix, and in the proportions that the model predicts."""

import re
from collections import Counter
from itertools import islice

import numpy as np
import pytest
from support.judges import scalar_forward, softmax_of

from microgpt_trace import Config, Model, Tokenizer, init, sample
from microgpt_trace.errors import InputError


def scaled(gain, seed=3, config=None):
    """Return a model whose predictions are far from uniform."""
    model = init(config, seed=seed)
    params = model.params.copy()
    params.flat *= gain
    return Model(params, model.tokenizer, "test")


def logits_after(model, text):
    ids = [0, *model.tokenizer.encode(text)]
    return scalar_forward(dict(model.params.items()), ids, model.config.n_head, 1)[-1]


def greedy(model, prefix):
    text = prefix
    while len(text) < model.config.block_size:
        row = logits_after(model, text)
        if (token := row.index(max(row))) == 0:
            break
        text += model.tokenizer.decode([token])
    return text


@pytest.mark.parametrize(("prefix", "seed"), [("", 3), ("em", 4), ("abcdefghijklmno", 3)])
def test_temperature_zero_takes_the_most_likely_character(prefix, seed):
    model = scaled(5, seed)
    assert list(sample(model, 2, temperature=0, prefix=prefix)) == [greedy(model, prefix)] * 2


@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_first_letters_have_the_proportions_of_the_model(temperature):
    model, count = scaled(3, config=Config(block_size=1)), 2000
    counter = Counter(sample(model, count, temperature=temperature, seed=1))
    expected = count * np.array(softmax_of([z / temperature for z in logits_after(model, "")]))
    counts = np.array([counter[letter] for letter in ["", *model.tokenizer.chars]])
    # Pearson's statistic has mean 26 and standard deviation 7.2 here, so chance does not explain 60.
    statistic = float(((counts - expected) ** 2 / expected).sum())
    print(f"chi-square {statistic:.1f} for 26 degrees of freedom")
    assert statistic < 60


def test_the_seed_fixes_the_names():
    assert list(sample(init(), 5, seed=1)) == list(sample(init(), 5, seed=1))
    assert list(sample(init(), 5, seed=1)) != list(sample(init(), 5, seed=2))
    assert list(sample(init(), 3, seed=1)) == list(islice(sample(init(), 10, seed=1), 3))


@pytest.mark.parametrize("prefix", ["em", "Em"])
def test_names_begin_with_the_prefix(prefix):
    names = list(sample(init(), 10, temperature=1, prefix=prefix))
    assert len(names) == 10
    assert all(name.startswith("em") for name in names)


def test_a_name_ends_when_the_block_is_full():
    model = init(Config(block_size=4))
    params = model.params.copy()
    params.lm_head[0] = 0
    params.lm_head[1:] *= 1000
    names = list(sample(Model(params, model.tokenizer, "test"), 20, temperature=1))
    assert max(map(len, names)) == 4


def test_names_have_only_characters_of_the_vocabulary():
    names = sample(init(tokenizer=Tokenizer(bos="last")), 20, temperature=3, seed=2)
    assert all(re.fullmatch("[a-z]{0,16}", name) for name in names)


@pytest.mark.parametrize("temperature", [1e-300, 1e-8, 1e8])
def test_samples_at_extreme_temperatures(temperature):
    names = list(sample(scaled(5), 3, temperature=temperature))
    assert len(names) == 3
    assert temperature > 1 or names == list(sample(scaled(5), 3, temperature=0))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": -0.1}, r"temperature: expected 0 or more, found -0\.1"),
        ({"temperature": float("nan")}, "temperature: expected 0 or more, found nan"),
        ({"count": 0}, "the number of names: expected at least 1, found 0"),
        ({"prefix": "a" * 16}, "expected at most 15 characters, found 16"),
        ({"prefix": "é"}, "try 'e'"),
        ({"seed": -1}, "seed"),
    ],
)
def test_rejects_wrong_options(options, message):
    with pytest.raises(InputError, match=message):
        list(sample(init(), **options))


def test_rejects_a_model_that_is_not_finite():
    model = init()
    model.params.lm_head[3, 3] = np.nan
    with pytest.raises(InputError, match="untrained, seed 42: the predictions are not finite"):
        list(sample(model))
