"""`microgpt learn`: the page, the browser, and the files for a class."""

import errno
import html
import json
import re
import webbrowser

import numpy as np
import pytest
from support.commands import microgpt, refusal
from support.sweeps import some_of

from microgpt_trace.cli import learn

NAMES = "emma\nJosé\nO'Brien\nabcdefghijklmnopqrst\n\nemma\nindex\n!!!\n"


@pytest.fixture(autouse=True)
def opened(monkeypatch, tmp_path):
    """Collect the addresses that a command opens, instead of opening them. Temporary files stay in the folder
    of the test."""
    addresses = []
    monkeypatch.setattr(webbrowser, "open", lambda address: addresses.append(address) or True)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    for name in ("BROWSER", "DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    return addresses


def text_of(path):
    """Return the text of a page without its scripts and styles, one line for each element."""
    plain = re.sub(r"<(script|style)\b.*?</\1>", "", path.read_text("utf-8"), flags=re.DOTALL)
    return html.unescape(re.sub(r"<[^>]+>", "\n", plain))


def made(folder, names=NAMES, more=""):
    """Make the pages of a class in the folder `lesson`, and return the lines that the command prints."""
    (folder / "class.txt").write_text(names, "utf-8")
    done = microgpt(f"learn --class class.txt --out lesson {more}", cwd=folder)
    assert (done.code, done.out) == (0, ""), done.err
    return done.lines


@pytest.mark.parametrize("line", ["learn", "trace small emma --interactive"])
def test_without_a_screen_the_place_of_the_page_is_printed(opened, tmp_path, line):
    done = microgpt(line, cwd=tmp_path)
    assert done.code == 0
    [page] = tmp_path.glob("microgpt-*/*.html")
    assert done.lines[-1] == f"found no browser; open this page yourself: {page}"
    assert opened == []
    assert "microgptContent" in page.read_text("utf-8")


@pytest.mark.parametrize("line", ["learn olivia", "trace small olivia --interactive --html page.html"])
def test_with_a_screen_the_page_is_opened_once(opened, tmp_path, line):
    done = microgpt(line, cwd=tmp_path, DISPLAY=":0")
    assert done.code == 0
    [page] = [*tmp_path.glob("microgpt-*/*.html"), *tmp_path.glob("page.html")]
    assert opened == [page.as_uri()]
    assert done.lines[-1] == f"opened {page if 'learn' in line else 'page.html'}"


def test_a_browser_that_fails_is_no_error(monkeypatch, tmp_path):
    def fail(address):
        raise webbrowser.Error("no browser")

    monkeypatch.setattr(webbrowser, "open", fail)
    done = microgpt("learn", cwd=tmp_path, BROWSER="none")
    assert (done.code, done.lines[-1][:16]) == (0, "found no browser")


def test_out_keeps_an_existing_page_unless_forced(opened, tmp_path):
    line = "learn emma --out page.html"
    assert microgpt(line, cwd=tmp_path).lines == ["saved a page to page.html"]
    (tmp_path / "page.html").write_text("mine")
    assert "page.html exists already; --force overwrites" in refusal(line, cwd=tmp_path)
    assert (tmp_path / "page.html").read_text() == "mine"
    assert microgpt(f"{line} --force", cwd=tmp_path).code == 0
    assert opened == []


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("learn emma --class class.txt --out lesson", "'emma' is one more name"),
        ("learn --class class.txt", "--class needs --out DIR"),
        ("learn --class missing.txt --out lesson", "missing.txt: no such file"),
        ("learn --class empty.txt --out lesson", "found an empty file"),
        ("learn --class bytes.txt --out lesson", "expected UTF-8 text"),
        ("learn --class class.txt --out class.txt", "reads the file"),
        ("learn --class class.txt --out empty.txt", "cannot make the folder"),
        (
            "learn --class signs.txt --out lesson",
            "none (signs.txt:2: left out '!!': no letter of the model)",
        ),
        (
            "learn --class many.txt --out lesson",
            "found 201 names; for more than 200 pages, add --limit N",
        ),
        ("learn emma --limit 3", "--limit needs --class"),
        ("learn --class class.txt --out lesson --limit 0", "at least 1"),
        ("learn zoë", "try 'zoe'"),
        ("learn abcdefghijklmnop", "16"),
        ("learn --model missing.safetensors", "no such file"),
    ],
)
def test_what_cannot_be_read_or_written_is_refused(tmp_path, line, words):
    (tmp_path / "class.txt").write_text("emma\n")
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "bytes.txt").write_bytes(b"\xff\xfe")
    (tmp_path / "signs.txt").write_text("\n!!\n??\n")
    (tmp_path / "many.txt").write_text("emma\n\n" * 201)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert words in refusal(line, cwd=tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_production_model_is_refused(decoder_folder, tmp_path):
    assert "this command is for a microGPT" in refusal("learn", "--model", decoder_folder(), cwd=tmp_path)


def test_a_class_has_a_page_for_each_name_that_fits(tmp_path):
    lines = made(tmp_path)
    assert lines == [
        "class.txt:2: 'José' is read as 'jose'",
        "class.txt:3: \"O'Brien\" is read as 'obrien'",
        "class.txt:4: left out 'abcdefghijklmnopqrst': 20 letters, at most 15 fit",
        "class.txt:8: left out '!!!': no letter of the model",
        "saved 4 pages, a worksheet and an index to lesson, and the answers to lesson/teacher/answers.html",
    ]
    pages = {"emma.html", "jose.html", "obrien.html", "name-7.html"}
    files = {path.name for path in (tmp_path / "lesson").iterdir()}
    assert files == pages | {"index.html", "worksheet.html", "teacher"}
    index = (tmp_path / "lesson" / "index.html").read_text("utf-8")
    links = re.findall(r'<a href="([^"]*)">([^<]*)</a>', index)
    assert {link for link, _ in links} == files - {"index.html", "teacher"}
    assert [html.unescape(name) for _, name in links[:3]] == ["emma", "José", "O'Brien"]


def test_no_file_of_a_class_is_outside_of_its_folder_whatever_the_names(tmp_path):
    (tmp_path / "data.txt").write_text("an na\n../an\n/\nan na\nAnna\nanna\nname2\nname-1\n.\n" * 3)
    train = "train --data data.txt --vocab data --steps 3 --block-size 12 --out odd.safetensors"
    assert microgpt(train, cwd=tmp_path).code == 0
    before = {path.name for path in tmp_path.iterdir()} | {"class.txt", "lesson"}
    made(tmp_path, (tmp_path / "data.txt").read_text(), "--model odd.safetensors")
    assert {path.name for path in tmp_path.iterdir()} == before
    files = [path.name for path in (tmp_path / "lesson").iterdir()]
    assert len({name.lower() for name in files}) == len(files) == 8 + 3
    index = (tmp_path / "lesson" / "index.html").read_text("utf-8")
    assert set(re.findall(r'href="([^"]*)"', index)) == set(files) - {"index.html", "teacher"}


@pytest.mark.parametrize("model", ["small", "deep"])
def test_the_answers_of_the_worksheet_are_those_of_the_commands(tmp_path, checkpoints, model):
    path, name = ("small", "olivia") if model == "small" else (str(checkpoints["deep"]), "abbacife")
    made(tmp_path, f"{name}\n", f"--model {path}")
    last = 0 if path == "small" else 1

    def run(*more):
        document = json.loads(microgpt("trace", path, name, "--json", "--values", "--verbose", *more).out)
        arrays = {event["name"]: np.array(event.get("values")) for event in document["events"]}
        return document["predictions"][2], arrays

    prediction, arrays = run()
    weights = arrays[f"layer{last}.attn.weights"][:, 2, :3]
    head, key = np.unravel_index(np.argmax(weights), weights.shape)
    without, _ = run("--ablate", f"layer{last}.attn.head{head}")
    where = "the start" if key == 0 else f"{name[key - 1]} at place {key}"
    best = prediction["predicted"]
    target, changed = (f"{100 * row['target']['p']:#.3g} %" for row in (prediction, without))
    expected = [
        f"{best['label']}, {100 * best['p']:#.3g} %", f"{target}, rank {prediction['rank']}",
        f"{where}, {100 * weights[head, key]:#.3g} %", str((arrays[f"layer{last}.mlp.act"][2] > 0).sum()),
        f"{target} → {changed}",
    ]  # fmt: skip
    said = text_of(tmp_path / "lesson" / "teacher" / "answers.html")
    print(said[-1500:], expected)
    assert [line.strip() for line in said.splitlines() if line.strip() in expected] == expected
    blank = text_of(tmp_path / "lesson" / "worksheet.html")
    assert not [answer for answer in expected if f" {answer}" in blank.split("\n")]


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def interrupt():
    raise KeyboardInterrupt


def fill_the_disk():
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize(("act", "code"), [(interrupt, 130), (fill_the_disk, 1)])
@pytest.mark.parametrize("before", some_of([None, {"notes.txt": "mine", "emma.html": "old"}, {}], every=2))
def test_a_class_that_is_not_complete_leaves_the_folder_as_it_was(act, code, before, tmp_path, monkeypatch):
    if before is not None:
        (tmp_path / "lesson").mkdir()
        for name, text in before.items():
            (tmp_path / "lesson" / name).write_text(text)
    (tmp_path / "class.txt").write_text("emma\nmia\nava\n")
    files, page, made = contents(tmp_path), learn._page, []

    def page_or_end(*given):
        if len(made) == 2:
            [temporary] = (tmp_path / "lesson").glob(".*.tmp")
            assert {path.name for path in temporary.iterdir()} == {"emma.html", "mia.html"}
            act()
        made.append(given)
        return page(*given)

    monkeypatch.setattr(learn, "_page", page_or_end)
    done = microgpt("learn --class class.txt --out lesson --force", cwd=tmp_path)
    assert (done.code, len(done.lines)) == (code, code == 1), done.err
    assert contents(tmp_path) == files
    assert (tmp_path / "lesson").exists() == (before is not None)


def test_a_new_class_replaces_a_class_only_with_force(tmp_path):
    made(tmp_path, "emma\nmia\n")
    before = contents(tmp_path)
    assert "exists already" in refusal("learn --class class.txt --out lesson", cwd=tmp_path)
    assert contents(tmp_path) == before
    (tmp_path / "lesson" / "mia.html").write_text("old")
    made(tmp_path, "emma\nmia\n", "--force")
    assert contents(tmp_path) == before


def test_no_page_has_a_name_that_windows_reserves(tmp_path):
    made(tmp_path, "con\naux\nNUL\nconny\nteacher\nanswers\nindex\n")
    assert {path.name for path in (tmp_path / "lesson").glob("*.html")} == {
        *("name-1.html", "name-2.html", "name-3.html", "conny.html", "teacher.html", "answers.html"),
        *("name-7.html", "index.html", "worksheet.html"),
    }


def test_reads_as_many_names_as_the_limit_allows(tmp_path):
    lines = made(tmp_path, "?\nemma\nmia\n" * 100, "--limit 2")
    assert (len(lines), lines[-1][:12]) == (2, "saved 1 page")


def test_cuts_a_long_name_in_the_note(tmp_path):
    lines = made(tmp_path, f"{'é' * 100_000}\nemma\n")
    assert lines[0].endswith("': 100,000 letters, at most 15 fit")
    assert len(lines[0]) < 200


def test_the_file_of_names_is_never_replaced(tmp_path):
    made(tmp_path, "emma\n")
    (tmp_path / "lesson" / "index.html").write_text("mia\n")
    assert "reads the file" in refusal("learn --class lesson/index.html --out lesson --force", cwd=tmp_path)
    assert (tmp_path / "lesson" / "index.html").read_text() == "mia\n"
