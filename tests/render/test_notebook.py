"""The HTML that a notebook shows for every result. It is parsed, not run."""

import json
import pickle
import re
from dataclasses import replace
from importlib import import_module
from pkgutil import walk_packages

import pytest
from support.notebook_pages import Parsed, ink_and_paper, stripped_parts
from support.short_reprs import assert_short
from support.terminal import EVIL, contrast, controls, rendered

import microgpt_trace
from microgpt_trace import (
    Config,
    Intervention,
    Model,
    Tokenizer,
    attribute,
    certify,
    diagnose,
    diff,
    explain,
    gradcheck,
    init,
    load,
    patch,
    trace,
    train,
    validate,
)
from microgpt_trace.attribution.score_writers import score_by_writer
from microgpt_trace.certification.certificate import TensorEffect
from microgpt_trace.cli import COMMANDS, build
from microgpt_trace.comparison.prompts import diff_prompts
from microgpt_trace.dumps.stored_arrays import save_arrays
from microgpt_trace.patching.pairs import patch_pairs, read_pairs
from microgpt_trace.render.notebook_html import LONG, SAVE_IT
from microgpt_trace.render.page.page_view import PageView
from microgpt_trace.render.shown import SHOWN, picture_of, sections_of, view_of
from microgpt_trace.surveying.survey import survey
from microgpt_trace.surveying.survey_comparison import compare_surveys
from microgpt_trace.timeline.reading import read_timeline
from microgpt_trace.weights.weights_comparison import compare_weights

PAPERS = {"light": ((0, 0, 0), (255, 255, 255)), "dark": ((255, 255, 255), (17, 17, 17))}
MARKUP = '"><img src=x onerror=alert(1)></script></iframe><b style="'
HOSTILE = MARKUP + EVIL
STROKES = "▁▂▃▄▅▆▇█▏▎▍▌▋▊▉▐│•░▒▓"  # characters of bars and curves
DRAWN = re.compile(f"[{STROKES} ?]+")


def microgpt_results(model, other, texts, folder):
    """Yield every kind of result of a microGPT with a name."""
    text, near = texts
    yield "model", model
    yield "trace", trace(model, text, backward=True, step=True, top_k=3)
    without = Intervention("ablate", "layer0.attn.head1")
    yield "intervened", trace(model, text, interventions=[without], values=False)
    yield "predictions", trace(model, text).predictions
    yield "prediction", trace(model, text, top_k=3).predictions[1]
    yield "explanation", explain(model, "layer0.attn.scores[1,1,0]", text)
    yield "gradient", explain(model, "layer0.mlp.act[1,5]", text, backward=True)
    yield "attribution", attribute(model, text)
    yield "attribution by gradients", attribute(model, text, method="gradient", neurons=True)
    yield "patch", patch(model, text, near, target=text[0], against=text[1])
    paths = {"sender": "*.head*", "receiver": ["*.mlp", "logits"]}
    yield "paths", patch(model, text, near, target=text[0], against=text[1], **paths)
    yield "score by writer", score_by_writer(model, "layer0.attn.scores[1,1,0]", text)
    yield "validation", validate(model, text)
    yield "gradient check", next(iter(gradcheck(init(Config(n_embd=4, n_head=1)), "e")))
    yield "diff", diff(model, other, text)
    yield "weights", compare_weights(model, other)
    yield "prompts", diff_prompts(model, other, [text, near])
    texts_file = folder / "texts.jsonl"
    texts_file.write_text("".join(f"{json.dumps({'text': each})}\n" for each in (text, near)))
    surveys = [survey(own, texts_file) for own in (model, other)]
    yield "survey", surveys[0]
    yield "surveys", compare_surveys(*surveys)
    dump = folder / f"{model.origin[:80].replace('/', '|')}.safetensors"
    save_arrays(trace(other, text), dump)
    yield "diagnosis", diagnose(dump, model)


def decoder_results(model, tokens, folder):
    """Yield the results of a production model that differ from those of a microGPT."""
    yield "decoder", model
    yield "decoder's trace", trace(model, tokens=tokens, lens=True, generate=2, top_k=3, recheck=True)
    yield "decoder's kept trace", trace(model, tokens=tokens, values=["*"])
    yield "decoder's predictions", trace(model, tokens=tokens, top_k=2).predictions
    yield "decoder's explanation", explain(model, "layer1.attn.q_rope[2,1]", tokens=tokens)
    yield "decoder's attribution", attribute(model, tokens=tokens, target="#5")
    yield "decoder's diff", diff(model, model, tokens=tokens)
    effect = TensorEffect("wte", "F32", 0.1, None, 1.0)
    yield "certificate", replace(certify(model.origin, model.origin), tensors=(effect,))


@pytest.fixture(scope="module")
def plain(tmp_path_factory, decoder_folder):
    """Return one result of each kind by name."""
    folder = tmp_path_factory.mktemp("plain")
    trained = train(init(), steps=100)
    kinds = dict(microgpt_results(trained, init(seed=1), ("emma", "emmy"), folder))
    (folder / "pairs.txt").write_text("emma\temmy\tm\ty\nanna\tanny\tm\ty\n")
    kinds["pairs"] = patch_pairs(trained, read_pairs(folder / "pairs.txt"))
    log = folder / "run.jsonl"
    words = f"train --steps 60 --out {folder / 'm.safetensors'} --log {log} --trace-every 10"
    build(COMMANDS)(words.split(), standalone_mode=False)
    kinds["timeline"] = read_timeline(log)
    return kinds | dict(decoder_results(load(decoder_folder("qwen3")), [1, 5, 9, 5], folder))


@pytest.fixture(scope="module")
def hostile(plain, tmp_path_factory, decoder_folder):
    """Return the same results of models whose files, letters and tokens are hostile."""
    folder = tmp_path_factory.mktemp("hostile")
    letters = "".join(dict.fromkeys(HOSTILE + "emav"))
    tokenizer = Tokenizer(letters)
    config = Config(vocab_size=tokenizer.vocab_size, block_size=20)
    models = [replace(init(config, seed=seed, tokenizer=tokenizer), origin=HOSTILE) for seed in (3, 4)]
    kinds = dict(microgpt_results(*models, ("<img onerror=1>\x1b\u202e", "<img onerror=1>\x1bx"), folder))
    model = decoder_folder("qwen3", template=HOSTILE)
    vocabulary = json.loads((model / "tokenizer.json").read_text())
    ids = vocabulary["model"]["vocab"]
    vocabulary["model"]["vocab"] = {HOSTILE if token == 5 else text: token for text, token in ids.items()}
    (model / "tokenizer.json").write_text(json.dumps(vocabulary))
    kinds["timeline"] = replace(plain["timeline"], log=HOSTILE, watched=HOSTILE, notes=(HOSTILE,))
    return kinds | dict(decoder_results(load(model), [1, 5, 9, 5], folder))


def tables_of(result):
    """Return the HTML of a result without the page of a trace."""
    html = result._repr_html_()
    assert type(html) is str
    return Parsed(re.sub(r"<iframe[^>]*></iframe>", "", html))


@pytest.fixture(scope="module")
def tables(plain):
    return {kind: tables_of(result) for kind, result in plain.items()}


def page_of(result):
    """Return the page in the frame of a trace, and the attributes of the frame."""
    (frame,) = Parsed(result._repr_html_()).of("iframe")
    return Parsed(frame["srcdoc"]), frame


def test_every_object_of_a_result_has_a_short_repr(plain):
    kinds = {kind: assert_short(result, kind) for kind, result in plain.items()}
    assert {"Trace", "Vocabulary", "StoredTensor", "LlamaConfig"} <= kinds["decoder's trace"]
    assert all(own - {"Check"} for own in kinds.values())


def test_a_notebook_that_does_not_trust_a_result_strips_nothing(tables):
    assert {kind: stripped for kind, own in tables.items() if (stripped := set(stripped_parts(own)))} == {}


def test_a_notebook_has_every_word_of_the_terminal(plain, tables):
    """The terminal lays out the same sections by other code."""
    for kind, result in plain.items():
        shown = tables[kind].text()
        terminal = {word.strip(STROKES) for word in rendered(sections_of(result), 250).split()}
        assert [word for word in sorted(terminal) if word not in shown] == [], kind


@pytest.mark.parametrize("theme", PAPERS)
def test_text_contrasts_with_a_light_and_a_dark_background(tables, theme):
    for kind, own in tables.items():
        for piece in own.pieces:
            ink, paper = ink_and_paper(piece, *PAPERS[theme])
            least = 3 if DRAWN.fullmatch(piece.text) else 4.5  # bar or curve, text
            assert contrast(ink, paper) >= least, (kind, piece.text, ink, paper)


def test_the_helpers_find_stripped_markup_and_low_contrast():
    bad = Parsed('<svg></svg><p onclick="x()" style="position: fixed; color: red">a</p>')
    assert [*stripped_parts(bad)] == ["svg", "p onclick", "style position"]
    (piece,) = Parsed('<p style="opacity: .5"><b style="color: rgb(255, 0, 0)">a</b></p>').pieces
    ink, paper = ink_and_paper(piece, *PAPERS["dark"])
    assert (ink, paper) == ((136.0, 8.5, 8.5), (17, 17, 17))
    assert contrast(ink, paper) < 4.5


def test_hostile_text_is_shown_as_text(hostile):
    for kind, result in hostile.items():
        html = result._repr_html_()
        assert controls(html, terminal=False) == set(), kind
        for parsed in (tables_of(result), *(Parsed(f["srcdoc"]) for f in Parsed(html).of("iframe"))):
            assert [*parsed.of("img"), *parsed.of("b")] == [], kind
            names = {name for _, attributes in parsed.elements for name in attributes}
            assert [name for name in names if name.startswith("on")] == [], kind
    for kind in ("model", "trace", "attribution", "diff", "decoder's trace", "timeline"):
        shown = tables_of(hostile[kind]).text()
        assert "onerror" in shown, kind
        assert "\\u202e" in shown, kind


def test_the_table_lists_every_class_with_a_notebook_view(plain):
    """All listed functions exist, and `plain` has a result of every listed class."""
    names = [m.name for m in walk_packages(microgpt_trace.__path__, "microgpt_trace.")]
    loaded = [import_module(name) for name in names if not name.endswith("__main__")]
    own = {c for m in loaded for c in vars(m).values() if isinstance(c, type) and "_repr_html_" in vars(c)}
    assert {c.__name__ for c in own} == {type(result).__name__ for result in plain.values()} == {*SHOWN}
    for name in (name for shown in SHOWN.values() for name in shown if name):
        module, _, function = name.rpartition(".")
        assert callable(getattr(import_module(f"microgpt_trace.render.{module}"), function))
    for kind, result in plain.items():
        shown = SHOWN[next(own.__name__ for own in type(result).__mro__ if own.__name__ in SHOWN)]
        if shown.picture:
            assert picture_of(result).height > 0, kind
        if shown.view and type(result).__name__ != "Comparison":  # a comparison needs kept values
            assert isinstance(view_of(result), PageView), kind


def test_a_subclass_of_a_result_has_the_same_view():
    class Own(Model):
        pass

    assert Own(**vars(init()))._repr_html_() == init()._repr_html_()


def test_an_error_in_a_vocabulary_is_shown(decoder_folder):
    """A vocabulary is read when it is first needed, so the error comes late."""
    folder = decoder_folder("qwen3")
    (folder / "tokenizer.json").write_text('{"model": {"type": "<b>"}}')
    shown = Parsed(load(folder)._repr_html_())
    print(shown.text())
    assert str(folder / "tokenizer.json") in shown.text()
    assert shown.of("table") == []


def test_the_frame_of_a_trace_is_sandboxed(plain):
    page, frame = page_of(plain["trace"])
    assert frame["sandbox"] == "allow-scripts"
    assert "src" not in frame
    assert frame["title"] == "microgpt trace: emma"
    (policy,) = [m["content"] for m in page.of("meta") if m.get("http-equiv") == "Content-Security-Policy"]
    assert policy.startswith("default-src 'none'")
    assert "emma" in page.text()
    assert [a for _, a in page.elements if (a.get("src") or a.get("href") or "#")[0] != "#"] == []


def test_command_lines_of_a_page_have_the_input_of_the_trace(plain, monkeypatch):
    """A microGPT has a page without kept arrays, a production model only with some."""
    pages = {}
    for kind, run in plain.items():
        page = "microgpt_trace.render.notebook_html.trace_page"
        monkeypatch.setattr(page, lambda *args, kind=kind: pages.update({kind: args[4]}) or "")
        run._repr_html_()
    origin = plain["decoder's kept trace"].traced_model.origin
    emma = {"before": ["MODEL"], "text": "emma", "after": []}
    kept = {"before": [origin], "text": None, "after": ["--tokens", "1,5,9,5"]}
    assert pages == {"trace": emma, "intervened": emma, "decoder's kept trace": kept}


def test_a_trace_without_a_page_names_the_command_that_writes_it(plain, monkeypatch):
    run = plain["decoder's trace"]
    line = f"microgpt trace {run.traced_model.origin} --tokens 1,5,9,5 --html trace.html"
    assert line in tables_of(run).text()
    monkeypatch.setattr("microgpt_trace.render.notebook_html.MOST", 60_000)
    shown = Parsed(trace(init(), "emma")._repr_html_())
    assert shown.of("iframe") == []
    assert "microgpt trace MODEL emma --html trace.html" in shown.text()
    assert SAVE_IT in shown.text()


def test_a_page_that_would_be_too_large_is_not_built(monkeypatch):
    monkeypatch.setattr("microgpt_trace.render.notebook_html.trace_page", None)
    wide = init(Config(n_embd=256, n_head=4))
    print(f"{wide.config.parameter_count:,} parameters")
    assert Parsed(trace(wide, "emma", values=False)._repr_html_()).of("iframe") == []


def test_a_pickled_trace_has_no_model_and_no_page(plain):
    for kind in ("trace", "decoder's trace"):
        sent = pickle.loads(pickle.dumps(plain[kind]))
        assert (sent.traced_model, sent.events) == (None, plain[kind].events)
        assert "<iframe" not in sent._repr_html_()


def folded(result):
    """Return the titles of the closed sections."""
    parsed = tables_of(result)
    is_open = ["open" in attributes for attributes in parsed.of("details")]
    titles = [p.text for p in parsed.pieces if p.around[-2][0] == "summary" and p.around[-1][0] == "span"]
    return [title for title, shown in zip(titles, is_open, strict=True) if not shown]


def test_long_sections_are_folded_and_shorter_ones_too_above_a_page(plain):
    assert folded(plain["trace"]) == ["What the trace reveals", "Backward pass"]
    assert folded(plain["decoder's trace"]) == folded(plain["diff"]) == []
    assert len(plain["diff"].events) < LONG
    deep = init(Config(n_layer=8))
    assert folded(deep) == [f"{len(deep.params)} lines"]


def test_predictions_are_a_tuple_with_the_table_of_the_trace(plain):
    run = plain["trace"]
    assert isinstance(run.predictions, tuple)
    assert repr(run.predictions) == "Predictions(positions=5)"
    rows = [own for own in Parsed(run.predictions._repr_html_()).pieces if own.text in ("emma", "em")]
    assert len(rows) == 2
    for shown, titled in ((run, False), (run.predictions, False), (run.predictions[0], True)):
        words = tables_of(shown).text()
        assert "BOS" in words
        assert "''" not in words
        assert ("after position 0 BOS" in words) == titled


def test_the_number_of_training_steps_is_shown_once(plain, tmp_path):
    trained = plain["model"]
    microgpt_trace.save(trained, tmp_path / "m.safetensors")
    for model in (trained, load(tmp_path / "m.safetensors")):
        run = trace(model, "emma")
        assert tables_of(run).text().count("trained for 100 steps") == 1
        assert (SAVE_IT in run._repr_html_()) == (model is trained)
