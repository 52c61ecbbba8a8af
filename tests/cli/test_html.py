"""--html of the commands that show a result: the page, the commands in it, and refusals before the run."""

import pytest
from support.commands import microgpt, refusal
from support.result_pages import content_of, markup_of
from support.tiny_models import TOKENS

IDS = ",".join(map(str, TOKENS))
LINES = {  # a command, and one of the names that its page leads on from
    f"explain qwen2 'layer1.attn.q[2,3]' --tokens {IDS}": "layer1.attn_wq[3,7]",
    "attribute emma --position 2": "layer0.attn.head2",
    f"attribute qwen2 --tokens {IDS} --target N": "layer0.attn.head1",
    "patch emma emmy --target m --against y": "layer0.mlp.residual@3",
    "patch emma emmy --sites 'layer*.attn.head*'": "layer0.attn.head2",
    "patch --pairs pairs.txt": "layer0.mlp.residual@3",
    "diff one.safetensors two.safetensors emma": "layer0.attn.q",
    "diff one.safetensors two.safetensors --weights": "layer0.attn_wq",
    "diff port qwen2": "layer1.mlp.up",
    "diagnose port qwen2 --verbose": "layer1.mlp.up",
    "timeline t.jsonl": "",
}


def page_of(line, results, tmp_path):
    path = tmp_path / "page.html"
    done = microgpt(f"{line} --html {path}", cwd=results)
    print(done.err)
    plain = microgpt(line, cwd=results)
    assert (done.code, done.out) == (plain.code, plain.out)
    assert f"saved a page to {path}\n" in done.err
    return path.read_text("utf-8")


@pytest.mark.parametrize("line", LINES)
def test_a_page_has_commands_that_run_and_nothing_that_its_policy_forbids(line, results, tmp_path):
    page = page_of(line, results, tmp_path)
    tags = markup_of(page)
    assert not [(tag, own) for tag, own in tags if "style" in own or any(key.startswith("on") for key in own)]
    assert not [own for _, own in tags if "src" in own or own.get("href", "#")[0] != "#"]
    ids = [own["id"] for _, own in tags if "id" in own]
    assert sorted(set(ids)) == sorted(ids)
    assert {"theme", "help", "keys", "reading", "packed"} <= set(ids)
    commands = content_of(page).document["commands"]
    linked = [own["href"][1:] for tag, own in tags if tag == "a"]
    assert not [name for name in linked if name not in commands and not name.startswith("position-")]
    if not LINES[line]:
        assert commands == {}
        return
    again = microgpt(commands[LINES[line]].removeprefix("microgpt "), cwd=results)
    print(again.err, again.out)
    assert again.code in (0, 1)
    assert LINES[line].partition("@")[0].partition("[")[0] in again.out


def test_the_command_of_a_page_repeats_the_given_options_except_output_files(results, tmp_path):
    path = tmp_path / "page.html"
    line = "patch emma emmy --model one.safetensors --position=-1 --target m --against y --sites embed.norm"
    assert microgpt(f"{line} --json --out {tmp_path / 'a.json'} --html {path}", cwd=results).code == 0
    command = content_of(path.read_text("utf-8")).document["commands"]["embed.norm@0"]
    options = "--model one.safetensors --target m --against y --position -1 --sites embed.norm@0"
    assert command == f"microgpt patch emma emmy {options}"


REFUSED = {
    "a.txt": ["--html a.txt", "expected a file name that ends in .html"],
    "there.html": ["there.html", "exists", "--force"], "folder.html": ["folder.html", "folder"],
    "no/a.html": ["no"], "-": ["--html - and the result both go to standard output"],
    "''": ["--html: expected a file name"],
}  # fmt: skip
COMMANDS = (
    "explain layer0.attn.q[3,5] emma", "attribute emma", "patch emma emmy",
    "diff one.safetensors two.safetensors", "diagnose port qwen2", "timeline t.jsonl",
)  # fmt: skip


@pytest.mark.parametrize(("command", "target"), [*zip(COMMANDS, REFUSED, strict=True)])
def test_refuses_pages_that_cannot_be_written_before_the_run(command, target, results):
    (results / "there.html").write_text("mine")
    (results / "folder.html").mkdir(exist_ok=True)
    said = refusal(f"{command} --html {target}", cwd=results)
    assert [word for word in REFUSED[target] if word not in said] == []
    assert (results / "there.html").read_text() == "mine"


@pytest.mark.parametrize("command", COMMANDS)
def test_writes_a_page_to_standard_output_and_a_document_to_a_file(command, results, tmp_path):
    done = microgpt(f"{command} --html - --json --out {tmp_path / 'a.json'}", cwd=results)
    assert done.code in (0, 1), done.err
    assert done.out.startswith("<!doctype html>")
    assert (tmp_path / "a.json").read_text().startswith("{")


EXPLAINED = {
    "layer0.attn.scores[1,3,2]": "layer0.attn.scores[1,3,2]",
    "layer0.attn.scores[1,3,2] --backward": "gradient layer0.attn.scores[1,3,2]",
    "layer0.attn_wq[3,5] --backward": "gradient layer0.attn_wq[3,5]", "logits[-1,a]": "logits[4,1]",
}  # fmt: skip


@pytest.mark.parametrize("element", EXPLAINED)
def test_an_explanation_of_a_microgpt_opens_the_page_of_its_trace(element, results, tmp_path):
    page = page_of(f"explain --model one.safetensors {element} emma", results, tmp_path)
    document = content_of(page).document
    print(document["start"])
    assert document["start"] == EXPLAINED[element]
    links = {own["href"][1:] for tag, own in markup_of(page) if tag == "a"}
    assert any(link.startswith("gradient ") for link in links) == ("--backward" in element)
