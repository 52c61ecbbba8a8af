"""Compare the curves of a log with models trained again, plain Python and PyTorch; and check a log computed
by hand, logs with missing records, and files that are not logs."""

import json
import math
import tracemalloc
from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
from support.commands import microgpt, refused
from support.documents import valid
from support.judges import agree, scalar_forward, softmax_of, torch_run

from microgpt_trace import Config, Tokenizer, init, load, save
from microgpt_trace.cli import training_run
from microgpt_trace.microgpt.documents import Documents, default_data, held_out, read_lines
from microgpt_trace.microgpt.model import Schedule
from microgpt_trace.microgpt.training import Trainer
from microgpt_trace.render.characters import dot_plot, sparkline
from microgpt_trace.render.sections import DotPlot
from microgpt_trace.text.json_writing import dump, plain
from microgpt_trace.timeline.log import LOG_SCHEMA, watched_before
from microgpt_trace.timeline.log_writing import TrainingLog
from microgpt_trace.timeline.reading import read_timeline

CONFIG = Config(n_embd=8, n_head=2, n_layer=2, block_size=8)
SCHEDULE = Schedule(steps=60, lr=0.1)  # the rate is so large that units die, and some return
NAMES = [name for name in read_lines(default_data()) if len(name) < 8][:120] + ["emma"] * 20
TRACED = list(range(0, 61, 10))


def new_trainer(names=NAMES, config=CONFIG):
    documents = Documents.fit(names, Tokenizer(), config.block_size)
    return Trainer(init(config, seed=SCHEDULE.seed), documents, SCHEDULE)


def write_log(path, trainer, every=10, append=False, steps=None):
    with TrainingLog(path, trainer, "emma", every, append) as log:
        for record in islice(trainer.run(), steps):
            log.add(record)


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    path = tmp_path_factory.mktemp("log") / "run.jsonl"
    write_log(path, new_trainer())
    return path


@pytest.fixture(scope="module")
def timeline(log):
    return read_timeline(log)


@pytest.fixture(scope="module")
def weights():
    """Return the parameters after each traced step of the same run without a log."""
    trainer, by_step = new_trainer(), {}
    by_step[0] = {name: view.copy() for name, view in trainer.params.items()}
    for record in trainer.run():
        if record.step % 10 == 0:
            by_step[record.step] = {name: view.copy() for name, view in trainer.params.items()}
    return by_step


def ids_of(name="emma"):
    return [0, *(ord(c) - ord("a") + 1 for c in name), 0]


def dead_by_torch(weights, names=NAMES):
    """Return the dead units of each layer, and the smallest distance of any unit's maximum from zero."""
    names, rows = sorted({name for name in names if held_out(name)}), [[], []]
    for ids in map(ids_of, names):
        events, _ = torch_run(weights, ids[:-1], ids[1:], CONFIG)
        for layer, arrays in enumerate(rows):
            arrays.append(events[f"layer{layer}.mlp.up"].detach().numpy())
    tops = [np.concatenate(arrays).max(axis=0) for arrays in rows]
    return [set(np.flatnonzero(top <= 0).tolist()) for top in tops], min(np.abs(top).min() for top in tops)


def test_a_timeline_has_all_steps_of_the_run(timeline):
    assert timeline.steps == tuple(TRACED)
    assert (timeline.watched, timeline.config, timeline.absent, timeline.notes) == ("emma", CONFIG, (), ())
    assert [(run.step, run.held_out_loss > 0) for run in timeline.runs] == [(0, True)]
    assert timeline.loss.steps == tuple(range(1, 61))
    assert timeline.loss.loss == tuple(record.loss for record in new_trainer().run())


def test_predictions_agree_with_plain_python(timeline, weights):
    ids = ids_of()
    for step in TRACED[::2]:
        i, rows = TRACED.index(step), scalar_forward(weights[step], ids[:-1], 2, CONFIG.n_layer)
        for curve, row, target in zip(timeline.positions, rows, ids[1:], strict=True):
            p, order = softmax_of(row), sorted(range(27), key=lambda token: (-row[token], token))
            agree(curve.p[i], p[target], rtol=1e-3, atol=1e-7, what=f"P at step {step}")
            agree(curve.loss[i], -math.log(p[target]), rtol=1e-3, what=f"loss at step {step}")
            labels = ["EOS" if token == 0 else chr(ord("a") + token - 1) for token in order[:5]]
            print(curve.position, step, curve.rank[i], order.index(target) + 1, curve.top[i], labels)
            assert (curve.rank[i], curve.predicted[i]) == (order.index(target) + 1, labels[0])
            assert [token.label for token in curve.top[i]] == labels
            agree([token.p for token in curve.top[i]], [p[t] for t in order[:5]], rtol=1e-3, atol=1e-7)


def test_dead_units_agree_with_torch(timeline, weights):
    by_step, closest = zip(*(dead_by_torch(weights[step]) for step in TRACED), strict=True)
    assert min(closest) > 1e-4  # no unit is so close to zero that rounding decides
    for layer in timeline.layers:
        dead = [layers[layer.layer] for layers in by_step]
        print(layer.dead_count, [len(units) for units in dead])
        assert layer.dead_count == tuple(len(units) for units in dead)
        assert {row.unit for row in layer.dead} == dead[-1]
        for row in layer.dead:
            at = TRACED.index(row.since)
            assert all(row.unit in units for units in dead[at:])
            assert at == 0 or row.unit not in dead[at - 1]
        assert {row.unit for row in layer.returned} == set.union(*dead) - dead[-1]
        for row in layer.returned:
            died, back = TRACED.index(row.died), TRACED.index(row.returned)
            assert all(row.unit in units for units in dead[died:back])
            assert not any(row.unit in units for units in dead[back:])
    assert any(layer.dead for layer in timeline.layers)
    assert any(layer.returned for layer in timeline.layers)


@pytest.mark.parametrize("step", [0, 30])
def test_attention_agrees_with_torch(timeline, weights, step):
    ids, at = ids_of(), TRACED.index(step)
    events, _ = torch_run(weights[step], ids[:-1], ids[1:], CONFIG)
    for curve in timeline.attention:
        for head, rows in enumerate(curve.weights[at]):
            for query, row in enumerate(rows):
                expected = events[curve.name][head, query, : query + 1].tolist()
                agree(row, expected, rtol=1e-4, atol=2e-6, what=f"{curve.name}[{head},{query}]")
    assert [curve.name for curve in timeline.attention] == ["layer0.attn.weights", "layer1.attn.weights"]


def test_dead_units_do_not_depend_on_the_size_of_batches(monkeypatch):
    trainer = new_trainer()
    list(trainer.run())
    in_one_batch = trainer.held_out_loss_and_dead_units()[1]
    monkeypatch.setattr("microgpt_trace.microgpt.training.EVALUATION_BATCH", 2)
    print(len(trainer.documents.held_out), in_one_batch)
    assert len(trainer.documents.held_out) > 9
    assert trainer.held_out_loss_and_dead_units()[1] == in_one_batch
    assert any(in_one_batch)


SHORT = [name for name in read_lines(default_data()) if len(name) < 8]
SHAPE = "--n-embd 8 --n-head 2 --n-layer 2 --block-size 8"


@pytest.mark.parametrize(
    ("lr", "count", "advises"), [(0.1, 1200, True), (0.1, 140, False), (0.005, 1200, False)]
)
def test_train_tells_if_many_units_are_dead_for_many_names(tmp_path, lr, count, advises):
    names = SHORT[:count]
    (tmp_path / "names.txt").write_text("\n".join(names))
    train = f"train --data names.txt {SHAPE} --steps 60 --lr {lr}"
    output = microgpt(train, cwd=tmp_path, width=200).out
    dead, closest = dead_by_torch(dict(load(tmp_path / "microgpt.safetensors").params.items()), names)
    units, all_names = sum(map(len, dead)), sum(map(held_out, names))
    print(output, dead, closest)
    assert closest > 1e-4  # no unit is so close to zero that rounding decides
    assert (units >= 16) == (lr == 0.1)
    line = (
        f"{units} of 64 ReLU units are 0 at every position of the {all_names} held-out names. Try a smaller"
    )
    assert (line in output, "ReLU" in output) == (advises, advises)


@pytest.mark.parametrize(
    ("dead", "lr", "smaller"), [(15, 0.01, None), (16, 0.01, "0.005"), (40, 0.004, "0.002")]
)
def test_train_advises_a_rate_below_that_of_the_run(dead, lr, smaller):
    trainer = Trainer(init(), Documents.fit(SHORT[:1200], Tokenizer(), 16), Schedule(lr=lr))
    advice = training_run._advice(trainer, [list(range(dead))])
    assert advice.endswith(f"smaller --lr, such as {smaller}.") if smaller else not advice


def test_a_killed_and_resumed_run_has_the_same_timeline(timeline, tmp_path):
    path, checkpoint, trainer = tmp_path / "log.jsonl", tmp_path / "half.safetensors", new_trainer()
    with TrainingLog(path, trainer, "emma", 10, append=False) as log:
        for record in islice(trainer.run(), 37):
            log.add(record)
            if record.step == 25:
                save(trainer.model("half"), checkpoint)
    path.write_bytes(path.read_bytes()[:-20])  # as if killed while writing step 37
    cut = read_timeline(path)
    assert "the last line is incomplete" in cut.notes[0]
    assert (cut.steps, cut.loss.steps[-1]) == ((0, 10, 20, 30), 36)
    trainer = Trainer(load(checkpoint), new_trainer().documents, SCHEDULE)
    write_log(path, trainer, append=True)
    resumed = read_timeline(path)
    assert [run.step for run in resumed.runs] == [0, 25]
    assert replace(resumed, log=timeline.log, runs=timeline.runs) == timeline


RUN = {
    "record": "run", "schema": LOG_SCHEMA, "start": 0, "watched": "amm", "data": "3 names",
    "model": {"config": {"vocab_size": 27, "n_embd": 4, "n_head": 1, "n_layer": 1, "block_size": 4}},
    "schedule": {"steps": 30, "batch_size": 1, "lr": 0.01, "seed": 1}, "held_out_loss": None,
}  # fmt: skip
P = [[0.1, 0.2, 0.6, 0.5], [0.9, 0.8, 0.7, 0.6], [0.1, 0.4, 0.2, 0.3], [0.2, 0.2, 0.2, 0.2]]
RANK = [[3, 1, 1, 2], [1, 1, 1, 1], [2, 1, 2, 1], [2, 2, 2, 1]]
DEAD = [[], [1, 2, 4], [2], [2, 3]]


def records():
    yield RUN
    for i, step in enumerate((0, 10, 20, 30)):
        for earlier in range(step - 9, step + 1) if step else ():
            yield {"record": "step", "step": earlier, "loss": 3.0 - earlier / 100}
        for position, target in enumerate(["a", "m", "m", "EOS"]):
            yield {
                "record": "prediction", "step": step, "position": position, "target": target,
                "p": P[position][i], "loss": 1.0, "rank": RANK[position][i], "predicted": "m",
            }  # fmt: skip
        yield {"record": "relu", "step": step, "layer": 0, "units": 5, "dead": DEAD[i]}


def write_lines(path, lines):
    path.write_text("".join(line if isinstance(line, str) else dump(line) + "\n" for line in lines))
    return path


@pytest.fixture
def hand_log(tmp_path):
    return write_lines(tmp_path / "hand.jsonl", records())


def test_the_timeline_of_a_log_computed_by_hand(hand_log):
    timeline = read_timeline(hand_log)
    assert timeline.steps == (0, 10, 20, 30)
    assert [curve.learned for curve in timeline.positions] == [None, 0, 30, 30]
    assert [curve.halfway for curve in timeline.positions] == [20, None, 30, None]
    assert [curve.seen for curve in timeline.positions] == ["BOS", "a", "am", "amm"]
    (layer,) = timeline.layers
    assert layer.dead_count == (0, 3, 1, 2)
    assert [(row.unit, row.since) for row in layer.dead] == [(2, 10), (3, 30)]
    assert [(row.unit, row.died, row.returned) for row in layer.returned] == [(1, 10, 20), (4, 10, 20)]


def test_steps_that_a_resumed_run_repeated_count_once(tmp_path):
    stale = {"record": "relu", "step": 25, "layer": 0, "units": 5, "dead": [0]}
    again = [record for record in records() if record.get("step", 0) > 10]
    lines = [*records(), stale, RUN | {"start": 10}, *again]
    timeline = read_timeline(write_lines(tmp_path / "twice", lines))
    assert timeline.steps == (0, 10, 20, 30)
    assert timeline.loss.steps == tuple(range(1, 31))
    assert timeline.layers == read_timeline(write_lines(tmp_path / "once", records())).layers
    assert [run.step for run in timeline.runs] == [0, 10]


@pytest.mark.parametrize(
    ("losses", "top", "bottom"),
    [
        ([3.0, 1.0, math.nan, 2.0, math.inf], "  3.00 │•    ", "  1.00 │ •? ?"),
        ([math.nan] * 2, "       │  ", "       │??"),
        ([-1.7e308, 1.7e308], "2e+308 │ •", "-2e+308 │• "),
    ],
    ids=["some", "all", "huge"],
)
def test_plots_losses_that_are_not_finite_or_huge(losses, top, bottom):
    lines = dot_plot(DotPlot(losses, 1, len(losses)), 30)
    print(*lines, sep="\n")
    assert (lines[0], lines[7]) == (top, bottom)


def test_the_command_prints_the_timeline(hand_log):
    output = microgpt("timeline", hand_log, width=80).out
    print(output)
    assert 'The double m (after "am") is the first choice from step 30 on.' in output
    assert "  2  am    m       0.100  ▁█▃▆  0.300     1        30       30" in output
    assert "  1  a     m       0.900  █▆▃▁  0.600     1         –   always" in output
    assert "  0  BOS   a       0.100  ▁▂█▇  0.500     2        20       no" in output
    assert "    0         10       20  1, 4" in output
    assert "    0         10  the end  2" in output
    assert "    0         30  the end  3" in output


@pytest.mark.parametrize(
    ("ranks", "words"),
    [
        ([1, 1, 1, 1], "is the first choice at every trace."),
        ([1, 2, 1, 3], "was not learned: first choice only at steps 0, 20; rank 3 with P 0.300 at the end."),
        ([4, 2, 2, 5], "was not learned: rank 5 with P 0.300 at the end."),
        ([None] * 4, "ranks were not logged"),
    ],
)
def test_the_command_describes_how_the_double_letter_was_learned(tmp_path, ranks, words):
    ranks = iter(ranks)
    lines = [row | {"rank": next(ranks)} if row.get("position") == 2 else row for row in records()]
    output = microgpt("timeline", write_lines(tmp_path / "l", lines), width=120).out
    print(output)
    assert words in output


@pytest.mark.parametrize(("width", "encoding"), [(80, "ascii"), (120, "utf-8")])
def test_the_tables_fit_the_screen(log, width, encoding):
    result = microgpt("timeline", log, width=width, encoding=encoding)
    print(result.out, result.err)
    assert (result.code, result.err) == (0, "")
    assert max(map(len, result.out.splitlines())) <= width + (encoding == "ascii") * 4
    assert result.out.isascii() == (encoding == "ascii")
    assert "Dead ReLU units" in result.out


def test_many_returned_units_are_only_counted(log, timeline, monkeypatch):
    monkeypatch.setattr("microgpt_trace.render.results.timeline_sections.MOST_RETURNS", 1)
    output, returned = microgpt("timeline", log).out, sum(len(layer.returned) for layer in timeline.layers)
    print(returned, output)
    assert f"{returned} units were dead for a while" in output
    spells = [line for line in output.splitlines() if "the end" in line]
    assert len(spells) == len({(layer.layer, row.since) for layer in timeline.layers for row in layer.dead})


def test_json_fits_its_schema(log, timeline):
    document = valid(microgpt("timeline", log, "--json").out, "timeline")
    assert document["schema"] == "microgpt.timeline/2"
    assert document["positions"][2]["p"] == list(timeline.positions[2].p)
    assert document["layers"][1]["dead_count"] == list(timeline.layers[1].dead_count)


OLD = (  # records that an earlier version wrote at each traced step
    {"record": "event", "step": 20, "seq": 0, "phase": "forward", "name": "wte", "stats": {"l2_norm": 1.0}},
    {"record": "parameter", "step": 20, "name": "wte", "l2_norm": 4.0, "update_l2": None},
)


def test_the_log_of_an_earlier_version_has_the_same_timeline(hand_log, tmp_path):
    old = write_lines(tmp_path / "old.jsonl", [*records(), *OLD])
    assert replace(read_timeline(old), log=str(hand_log)) == read_timeline(hand_log)


def test_a_log_may_have_numbers_that_are_not_finite(tmp_path):
    def damaged(record):
        changes = {"prediction": {"p": math.nan, "loss": math.inf, "rank": None}, "step": {"loss": math.nan}}
        return record | changes.get(record["record"], {}) if record.get("step") == 20 else record

    path = write_lines(tmp_path / "nan.jsonl", map(damaged, records()))
    result = microgpt("timeline", path, width=80)
    print(result.out, result.err)
    assert (result.code, result.err) == (0, "")
    assert "?" in result.out
    document = valid(microgpt("timeline", path, "--json").out, "timeline")
    assert document["positions"][0]["p"] == [0.1, 0.2, "NaN", 0.5]
    assert document["positions"][0]["loss"] == [1.0, 1.0, "Infinity", 1.0]


def test_a_trace_that_is_not_finite_names_its_first_such_number(tmp_path):
    trainer, path = new_trainer(), tmp_path / "run.jsonl"
    trainer.params["layer0.mlp_fc1"][0, 0] = math.inf
    write_log(path, trainer, steps=0)
    output = microgpt("timeline", path, width=120).out
    print(output)
    assert "step 0: the check finite failed, layer0.mlp.up, position 0, element [0, 0] = " in output


@pytest.mark.parametrize(
    ("values", "width", "line"),
    [
        ([0, 1, 2, 3, 4, 5, 6, 7], 20, "▁▂▃▄▅▆▇█"),
        ([0, 2, 3, 5, 6, 8], 3, "▁▅█"),  # means 1, 4, 7
        ([8.944, 8.945], 20, "▁▁"),
        ([None, 1, math.nan, 2, math.inf], 20, " ▁?█?"),
        ([1, math.nan, 2, 3, 4, 5], 3, "?▁█"),
        ([1e308, -1e308], 20, "█▁"),
        ([None, None], 20, "  "),
        ([], 20, ""),
        ([1, 2], 0, ""),
    ],
)
def test_sparkline_draws_means_gaps_and_huge_numbers(values, width, line):
    assert sparkline(values, width) == line
    in_ascii = line.translate(str.maketrans("▁▂▃▄▅▆▇█", "_.-=+*#@"))
    assert sparkline(values, width, ascii_only=True) == in_ascii


def test_the_command_names_values_that_an_earlier_version_did_not_log(tmp_path):
    def earlier():
        for record in records():
            if record["record"] != "relu":
                yield {key: value for key, value in record.items() if key not in ("rank", "predicted")}

    path = write_lines(tmp_path / "old.jsonl", earlier())
    output = microgpt("timeline", path, width=120).out
    print(output)
    assert "the rank of the target in 16 of 16 predictions: not logged" in output
    assert "dead ReLU units: not logged" in output
    assert "attention weights: not logged" in output
    assert "Dead ReLU" not in output
    assert read_timeline(path).positions[0].learned is None


def test_dead_units_need_held_out_names(tmp_path):
    names = [name for name in NAMES if not held_out(name)]
    trainer, path = new_trainer(names), tmp_path / "run.jsonl"
    assert trainer.held_out_loss_and_dead_units()[1] is None
    write_log(path, trainer, steps=10)
    timeline = read_timeline(path)
    assert timeline.absent == ("dead ReLU units: not measured, because no name is held out",)
    assert [layer.dead_count for layer in timeline.layers] == [(None, None)] * 2
    output = microgpt("timeline", path).out
    assert "not measured, because no name is held out" in output
    assert "10 of 60 steps" in output


def test_the_command_reports_gaps_failed_checks_and_an_incomplete_trace(tmp_path):
    lines = [record for record in list(records())[:-4] if not 10 < record.get("step", 0) < 15]
    lines.insert(9, {"record": "check", "step": 0, "id": "heads", "detail": "off by 1"})
    result = microgpt("timeline", write_lines(tmp_path / "gap", lines), width=80)
    print(result.out, result.err)
    assert result.code == 0
    assert "steps 11 to 14 were not logged" in result.err
    assert "step 0: the check heads failed, off by 1" in result.out
    assert "the trace of step 30 is incomplete" in result.err
    assert "  2  am    m       0.100  ▁█▃   0.200" in result.out


STEP = {"record": "step", "step": 1, "loss": 3.0}
RELU = {"record": "relu", "step": 0, "layer": 0, "units": 4, "dead": [7]}
ATTENTION = {"record": "attention", "step": 0, "name": "w", "weights": [[[1.0], [0.25, 0.75]]]}
PREDICTION = {"record": "prediction", "step": 0, "position": 0, "target": "a", "p": "high", "loss": 1.0}


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ([], ["expected traces, found only 0 training steps"]),
        (["hello\n"], ["line 1", "JSON record", "'hello'"]),
        (['{"record": "run", "sch'], ["expected traces, found only 0 training steps"]),
        (["[1]\n"], ["line 1", "JSON object", "list"]),
        ([RUN | {"schema": "microgpt.trace/1"}], ["line 1", "microgpt.log/1", "microgpt.trace/1"]),
        ([STEP], ["line 1", "'step'"]),
        ([RUN], ["expected traces, found only 0 training steps", "--trace-every"]),
        ([RUN, "\n", STEP], ["line 2", "an empty line"]),
        ([RUN, "[" * 100_000 + "\n"], ["line 2", "JSON record"]),
        ([RUN, {}], ["line 2", "'record'"]),
        ([RUN, STEP | {"step": -1}], ["line 2", "step", "-1"]),
        ([RUN, STEP | {"loss": None}], ["line 2", "loss", "None"]),
        ([RUN, STEP | {"loss": 10**400}], ["line 2", "an integer of 401 digits"]),
        ([RUN, STEP, STEP], ["line 3", "a step after 1, found 1"]),
        ([RUN, RELU], ["line 2", "dead", "below 4", "7"]),
        ([RUN, PREDICTION], ["line 2", "p:", "'high'"]),
        ([RUN, PREDICTION | {"p": 0.5, "top": [["a"]]}], ["line 2", "top", "a text and a number", "['a']"]),
        ([RUN, PREDICTION | {"p": 0.5, "top": [["a", "b"]]}], ["line 2", "top", "a number", "'b'"]),
        ([RUN, ATTENTION | {"weights": [1]}], ["line 2", "weights", "a list of rows"]),
        ([RUN, ATTENTION | {"weights": [[[1.0]]] * 2}], ["line 2", "weights", "each of 1 heads"]),
        ([RUN, ATTENTION | {"weights": [[[1.0], [1.0]]]}], ["line 2", "rows of 1, 2, 3", "[[[1.0], [1.0]]]"]),
        ([RUN, ATTENTION | {"weights": [[["x"]]]}], ["line 2", "weights", "a number", "'x'"]),
        ([RUN, ATTENTION, ATTENTION | {"weights": [[[1.0]]]}], ["line 3", "as many queries"]),
        ([RUN | {"model": {"config": {"n_head": 3}}}], ["line 1", "n_head 3"]),
        ([RUN | {"model": {"config": {"depth": 3}}}], ["line 1", "depth"]),
        ([RUN, STEP, RUN | {"watched": "anna"}], ["line 3", "the run above to continue"]),
    ],
)  # fmt: skip
def test_rejects_a_file_that_is_not_a_log_in_one_line(tmp_path, lines, words):
    write_lines(tmp_path / "bad.jsonl", lines)
    refused(microgpt("timeline", "bad.jsonl", cwd=tmp_path), "bad.jsonl", *words)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("", "expected a training log"),
        ("nope.jsonl", "nope.jsonl: no such file"),
        (".", "folder"),
        ("hand.jsonl --event wte", "No such option: --event"),
        ("hand.jsonl --out hand.jsonl", "hand.jsonl exists already"),
        ("hand.jsonl wte", "wte"),
    ],
)
def test_rejects_wrong_options_in_one_line(hand_log, words, message):
    refused(microgpt("timeline", *words.split(), cwd=hand_log.parent), message)


def test_a_log_that_names_a_million_layers_needs_little_memory(hand_log, tmp_path):
    first, *rest = hand_log.read_text().splitlines(keepends=True)
    run = json.loads(first)
    run["model"]["config"] |= {"n_layer": 10**6, "n_head": 10**6, "n_embd": 10**6}
    (tmp_path / "deep.jsonl").write_text("".join([json.dumps(run) + "\n", *rest]))
    tracemalloc.start()
    timeline = read_timeline(tmp_path / "deep.jsonl")
    plain(timeline)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 20
    assert timeline.config.parameter_count > 10**18


def test_a_log_can_watch_another_name(tmp_path):
    path = tmp_path / "run.jsonl"
    (tmp_path / "names.txt").write_text("\n".join(NAMES))
    command = "train --data names.txt --steps 20 --log run.jsonl --trace-every 10 --out m --force --watch "
    assert microgpt(f"{command} Anna", cwd=tmp_path).code == 0
    timeline = read_timeline(path)
    assert timeline.watched == watched_before(path) == "anna"
    assert [position.target for position in timeline.positions] == ["a", "n", "n", "a", "EOS"]
    assert "The double n" in microgpt("timeline", path).out
    refused(microgpt(f"{command} José", cwd=tmp_path), "'é'")
    refused(microgpt(f"{command} {'a' * 16}", cwd=tmp_path), "at most 15 characters")
    assert watched_before(tmp_path / "names.txt") is watched_before(tmp_path / "missing") is None
