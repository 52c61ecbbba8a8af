"""The sentences on the cards of a microGPT's page, by the scripts alone."""

import numpy as np
from support.script_engine import SCRIPTS, needs_node, run_script

from microgpt_trace.render.page.page import script


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


@needs_node
def test_sentences_about_one_thing_are_singular():
    program = """
    const {Page} = await load("runs");
    const {whyOf} = await load("why");
    const {onOf} = await load("picture_parts");
    const events = ["Norm", "Activation"].map((kind) => (
        { name: kind, kind, positive: 1, inputs: [kind], axes: ["position", "channel"], shape: ["T", 2] }
    ));
    const tokenizer = { letters: { a: 0, b: 1 }, bos: 2, most: 1 };
    const page = new Page({ events, parameters: [], pictures: {}, tokenizer }, new Map());
    const run = (values) => (
        { length: 1, shape: () => [1, 2], of: () => Float64Array.from(values), labels: [], targets: [] }
    );
    const about = (name, values) => whyOf(page, run(values), { of: "value", name, index: [] });
    let error;
    try { page.read("ab"); } catch (caught) { error = caught.message; }
    return [error, about("Activation", [0, 3]), about("Norm", [1, -1]), onOf(run([0, 3]), "Norm", 0),
            page.write([0, 1])];
    """
    error, zeros, norm, on, written = run_script(program, {})
    print(error, zeros, norm, on)
    assert error == "expected at most 1 character, found 2"
    assert zeros.startswith("1 of 2 numbers is 0, ")
    assert norm.endswith("Each row of 2 numbers has an L2 of √2 = 1.414, whatever came before.")
    assert (on, written) == ("1 of 2 is on", "ab")


def test_a_written_script_has_no_comments_and_all_its_text():
    """Only a comment may follow two slashes between spaces, or a page would lose the end of a text."""
    for path in sorted(SCRIPTS.glob("*.js")):
        for line in path.read_text().splitlines():
            before = line.partition(" // ")[0]
            assert " // " not in line or all(before.count(quote) % 2 == 0 for quote in "\"'`"), line
    written = script("overview") + script("model_overview")
    assert " // " not in written
    assert "/**" not in written
    assert "http://www.w3.org/2000/svg" in written
