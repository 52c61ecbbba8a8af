"""The sentences on the cards of a microGPT's page, by the scripts alone."""

import numpy as np
from support.script_engine import needs_node, run_script


@needs_node
def test_the_sentence_on_a_head_is_true_where_places_overlap():
    """Every letter of "emma" gives all attention to the letter before. For the second m, this is an m,
    and for the e, it is the start. The shares of the places sum to 225 %."""
    program = """
        const { habit } = await load("cards");
        const run = { length: 5, tokens: given.tokens, of: () => given.weights.flat() };
        return habit(run, { attention: "weights", head: 0 });"""
    weights = np.eye(5, k=-1)
    weights[0, 0] = 1
    tokens = [26, 4, 12, 12, 0]
    text = run_script(program, {"tokens": tokens, "weights": weights.tolist()})
    before = np.mean([weights[query, query - 1] for query in range(1, 5)])
    start, repeat = weights[1:, 0].mean(), weights[3, 2]
    print(text)
    assert f"on average {before:.0%} to the letter before".replace("%", " %") in text
    assert f"{start:.0%} to the start and 0% to the letter itself. ".replace("%", " %") in text
    assert "For the first letter, the letter before is the start." in text
    assert f"For a letter that occurred before, it gives {repeat:.0%} to the".replace("%", " %") in text
    assert "same letter earlier" not in text
