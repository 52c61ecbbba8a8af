"""Check that a page has one true sentence about each array of every architecture."""

import math
import re

import numpy as np
import pytest
from support.other_plans import routed_plan
from support.tiny_microgpts import CASES as MICROGPTS
from support.tiny_models import CASES

from microgpt_trace import init
from microgpt_trace.render.page.event_sentences import event_sentence

DECODERS = ["llama_gqa", "llama_mqa", "llama_mha_bias", "llama_tied", "mistral_window", "qwen2", "qwen3"]


def sentences(plan, thing="letter"):
    """Return the sentence of each array."""
    shapes = plan.shapes(5)
    return {name: event_sentence(plan, row, shapes, thing) for name, row in plan.items()}


def check(plan):
    """Check sentences against the plan: they exist, count what the shapes count, and differ where arrays
    differ in their role."""
    said, shapes = sentences(plan), plan.shapes(5)
    missing = {event for event, sentence in said.items() if not sentence}
    print({event: sentence for event, sentence in said.items() if "layer1" not in event})
    assert missing == set()
    for event, sentence in said.items():
        assert not sentence or sentence.endswith("."), (event, sentence)
        own = {*shapes[event][1:], plan.heads[event].dim if event in plan.heads else 0}
        sizes = {
            int(number.replace(",", "")) for number in re.findall(r"(?<![\d.])\d[\d,]*(?![\d.]*\d)", sentence)
        }
        allowed = own | {0, 1, 100, math.prod(shapes["logits"][1:])} | head_counts(plan, event)
        assert sizes <= allowed, (event, sentence, sizes - allowed)
    return said


def head_counts(plan, event):
    """Return the number of heads of an array, or the number of parts that an array sums."""
    width, row = (plan.shapes(5)[event] or (0,))[-1], plan[event]
    heads = {width // plan.heads[event].dim} if event in plan.heads else set()
    parts = plan.sums_of[event].parts if event in plan.sums_of else ()
    return heads | {len(row.parts)} | ({parts.index(event)} if parts else set())


@pytest.mark.parametrize("name", MICROGPTS)
def test_every_array_of_a_microgpt_has_a_true_sentence(name):
    model = MICROGPTS[name].model
    said, config = check(model.plan), model.config
    dim = config.n_embd // config.n_head
    heads = f"{config.n_head} head{'s' * (config.n_head > 1)}"
    assert said["layer0.attn.q"] == f"What each letter looks for: {dim} numbers for each of {heads}."
    assert said["layer0.attn.k"].startswith("What each letter can be found by: ")
    assert said["layer0.attn.v"].startswith("What each letter hands over ")
    for head in range(config.n_head):
        assert said[f"layer0.attn.head{head}"].startswith(f"What head {head} alone adds")
    assert said["layer0.mlp.up"].startswith(f"{config.n_inner} questions")
    assert said["embed.tok"] == f"What each letter is: {config.n_embd} numbers that the model keeps for it."
    assert f"ln {config.vocab_size} = {np.log(config.vocab_size):.3f}" in said["loss"]
    assert [name for name, words in said.items() if words.startswith("The final row")] == [
        model.plan.streams[-1]
    ]


def test_no_sentence_claims_that_an_untrained_model_learned():
    assert not [words for words in sentences(init().plan).values() if re.search("learn|train", words)]


@pytest.mark.parametrize("case", DECODERS)
def test_every_array_of_a_decoder_has_a_sentence_that_counts_its_heads(decoders, case):
    plan = decoders(case)[0].plan
    said, config = check(plan), CASES[case]
    queries, keys = config["num_attention_heads"], config["num_key_value_heads"]
    for name, count in {"q": queries, "k": keys, "v": keys}.items():
        assert said[f"layer0.attn.{name}"].endswith(f" for each of {count} head{'s' * (count > 1)}."), said
    assert said["layer1.attn.norm"] == "The rows, scaled to one common size before attention reads them."
    assert "each token is" in sentences(plan, "token")["embed.tok"]


def test_every_array_of_gpt2_has_a_sentence(gpt2):
    said = check(gpt2()[1].plan)
    assert said["layer0.mlp.act"] == "The same numbers, with what is below 0 pushed towards 0."


def test_the_arrays_of_a_mixture_are_told_apart():
    """The second mixture has a shared part, whose share is the sigmoid of one number."""
    said = sentences(routed_plan())
    names = ("router", "mixture", "gate", "share", "product", "shared", "both")
    own = {name: said[f"layer1.mlp.{name}"] for name in names}
    assert len({*own.values()}) == len(names)
    assert own["router"] == "One score for each of 6 experts: how well the expert fits each letter."
    assert "share between 0 and 100 %" in own["share"]
    assert [name for name, words in own.items() if "chosen" in words] == ["mixture", "both"]
