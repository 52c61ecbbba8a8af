"""Every view shows a token in the same way: spaces are visible, and digits beside an id are quoted."""

import re
import shlex

import pytest
from support.commands import microgpt

from microgpt_trace import Config, Tokenizer, explain, init, load, save, trace
from microgpt_trace.selection.token_names import token_argument, token_label, token_of, token_with_id
from microgpt_trace.text.printable import named_token, shown_token, with_ids

ODD = " '\"0123456789␣$\\a#\u3000\u00a0\tzé日\x1b"


@pytest.mark.parametrize(
    ("text", "shown"),
    [(" is", "␣is"), ("  ", "␣␣"), ("a", "a"), ("", "''"), ("\u3000", "\\u3000"), ("\x1b[1A", "\\x1b[1A")],
)
def test_spaces_and_unprintable_characters_are_made_visible(text, shown):
    assert shown_token(text) == shown
    assert shown_token(shown) == shown


def test_digits_beside_an_id_are_quoted():
    assert named_token("6", 3) == "'6'"
    assert named_token("6", 6) == "6"  # a model without a tokenizer names tokens by their ids
    assert named_token(" 6", 3) == "␣6"
    assert with_ids(["BOS", "a", "6"], [0, 5, 3]) == "BOS=0 a=5 '6'=3"


def test_a_suggested_argument_names_its_token(compared_folders):
    microgpts = [init(tokenizer=Tokenizer(chars)) for chars in (ODD, ODD.replace("␣", ""))]
    for model in (*microgpts, load(compared_folders["llama_gqa"])):
        for token in range(model.config.vocab_size):
            (word,) = shlex.split(token_argument(model, token))
            assert token_of(model, word) == token


def test_sentences_name_a_token_and_its_id():
    model = init(tokenizer=Tokenizer(" ab"))
    assert token_of(model, "␣") == token_of(model, " ") == 1
    assert token_label(model, 1) == "␣"
    model = init(tokenizer=Tokenizer(" 0123456789"))
    assert token_with_id(model, 8) == "token '6' (#8)"
    assert token_with_id(model, 1) == "token ␣ (#1)"
    assert explain(model, "logits[0,8]", "3 6").place == "after position 0 (BOS): token '6' (#8)"
    assert explain(model, "wte[8,3]", "3 6").place == "a parameter: token '6' (#8), channel 3"


TEXT = "3 6 9"
COMMANDS = (
    f"trace '{TEXT}' --top-k 3", f"trace '{TEXT}' -v --ablate layer0.attn.head2",
    f"trace '{TEXT}' --show logits --show layer0.attn.weights --show wte", f"attribute '{TEXT}'",
    f"explain 'logits[1,␣]' '{TEXT}'", f"explain 'layer0.attn.context[3,2]' '{TEXT}'",
    f"patch '{TEXT}' '3 6 3' --target 9 --against 3", "inspect",
)  # fmt: skip


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    path = tmp_path_factory.mktemp("digits") / "m.safetensors"
    tokenizer = Tokenizer(" 0123456789")
    save(init(Config(vocab_size=12), tokenizer=tokenizer), path)
    return path


def cells(output):
    """Split each line at two spaces or more."""
    return [re.split(r" {2,}", line.strip()) for line in output.splitlines()]


@pytest.mark.parametrize("line", COMMANDS)
def test_no_view_shows_a_token_as_an_invisible_space(digits, line):
    done = microgpt(f"{line} --model {digits}")
    print(done.out)
    assert done.code == 0, done.err
    assert "␣" in done.out
    rest = done.out
    for text in (f'"{TEXT}"', f"'{TEXT}'", TEXT, "3 6 3"):  # the texts of the command line
        rest = rest.replace(text, "")
    assert not re.search(r"(?:^|[ =(\"'])[ ]?[369] [369]", rest)


def test_predictions_show_spaces_in_every_column(digits):
    out = microgpt(f"trace '{TEXT}' --model {digits}").out
    rows = [row for row in cells(out[out.index("\nPredictions") :]) if row[0].isdecimal()]
    assert [row[1] for row in rows] == ["BOS", "3", "3␣", "3␣6", "3␣6␣", "3␣6␣9"]
    assert [row[2] for row in rows] == ["3", "␣", "6", "␣", "9", "EOS"]
    assert "reads       BOS=0 '3'=5 ␣=1 '6'=8 ␣=1 '9'=11, to predict 3 ␣ 6 ␣ 9 EOS" in out
    assert "vocabulary  0 = BOS and EOS, ␣0..9 = 1..11" in out


def test_train_and_timeline_show_spaces(tmp_path):
    data, log = tmp_path / "d.txt", tmp_path / "run.jsonl"
    data.write_text("3 6 9\n1 1 1\n")
    words = f"--data {data} --vocab data --out {tmp_path / 'm.safetensors'} --log {log} --trace-every 2"
    done = microgpt(f"train --steps 4 {words}")
    assert re.search(r"^ *␣  0\.\d{3} → 0\.\d{3}", done.out, re.MULTILINE)
    done = microgpt(f"timeline {log}")
    assert re.search(r"^ +2  3␣ +6 ", done.out, re.MULTILINE)
    assert re.search(r"^ +1  3 +␣ ", done.out, re.MULTILINE)


def test_a_trace_keeps_the_plain_token(digits):
    assert trace(load(digits), TEXT).input.labels == ("BOS", "3", " ", "6", " ", "9")
