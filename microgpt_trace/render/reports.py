"""Tables of `inspect` and `gradcheck`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

from ..gradient_check import GradientCheck
from ..model import Model
from ..stats import TensorStats
from .document import dump
from .layout import Column, print_table
from .screen import Screen, escape, figure, labelled, ratio

INSPECT_SCHEMA = "microgpt.inspect/1"


def print_inspection(model: Model, screen: Screen) -> None:
    """The architecture, then a row per parameter."""
    config, known = model.config, model.describe()
    pairs = [
        ("model", f"{model.origin}, {config.parameter_count:,} parameters ({known['dtype']})"),
        (
            "architecture",
            f"{config.n_layer} × [RMSNorm → {config.n_head} heads of {config.head_dim} → residual → "
            f"RMSNorm → MLP {config.n_inner} with ReLU → residual]",
        ),
        ("stream", f"width {config.n_embd}, {config.block_size} positions, {config.vocab_size} tokens"),
        ("vocabulary", model.tokenizer.describe()),
    ]
    state = model.training
    if state is not None:
        schedule = state.schedule
        pairs.append(
            (
                "training",
                f"step {state.step:,} of {schedule.steps:,}, batch {schedule.batch_size}, "
                f"lr {schedule.lr:g}, seed {schedule.seed}, on {state.data}",
            )
        )
    pairs += [("assumed", text) for text in model.assumed]
    labelled(pairs, screen)
    screen.say()
    columns = [
        Column("name", lambda r: r[0]),
        Column("shape", lambda r: escape(str(list(r[1])))),
        Column("count", lambda r: f"{r[2].count:,}", right=True),
        *(
            Column(title, lambda r, field=field: figure(getattr(r[2], field), 3), right=True)  # type: ignore[misc]
            for title, field in (("mean", "mean"), ("std", "std"), ("min", "min"), ("max", "max"))
        ),
        Column("L2", lambda r: figure(r[2].l2_norm), right=True),
    ]
    rows = [(name, array.shape, TensorStats.of(array)) for name, array in model.params.items()]
    print_table(columns, rows, screen)
    bad = [(name, stats.nonfinite_count) for name, _, stats in rows if stats.nonfinite_count]
    for name, count in bad:
        screen.say(f"[bold red]{name}: {count:,} values are not finite[/bold red]")


def inspection_json(model: Model) -> str:
    """The same as one JSON document."""
    tensors = [
        {"name": name, "shape": list(array.shape), "stats": asdict(TensorStats.of(array))}
        for name, array in model.params.items()
    ]
    return dump({"schema": INSPECT_SCHEMA, "model": model.describe(), "parameters": tensors}, indent=2) + "\n"


def print_gradcheck(rows: Sequence[GradientCheck], text: str, screen: Screen) -> None:
    """A row per parameter, then the verdict."""
    columns = [
        Column("parameter", lambda r: r.name),
        Column("elements", lambda r: f"{r.count:,}", right=True),
        Column("worst at", lambda r: escape(str(list(r.worst_index)))),
        Column("analytic", lambda r: f"{r.analytic:.8f}", right=True),
        Column("numeric", lambda r: f"{r.numeric:.8f}", right=True),
        Column("error", lambda r: ratio(r.relative_error), right=True),
        Column(
            "", lambda r: "[red]NO[/red]" if not r.holds else "not judged" if r.kinks == r.count else "ok"
        ),
    ]
    screen.say(
        f'[bold]Gradients of the loss of "{escape(text)}" against central differences in float64[/bold]'
    )
    print_table(columns, rows, screen)
    failed = [row.name for row in rows if not row.holds]
    kinks = sum(row.kinks for row in rows)
    if kinks:
        screen.say(f"{kinks} elements not judged: a ReLU switches within the step")
    total = sum(row.count for row in rows)
    if failed:
        screen.say(f"[bold red]{len(failed)} parameters disagree: {', '.join(failed)}[/bold red]")
    else:
        worst = max(row.relative_error for row in rows)
        screen.say(
            f"[green]all {total - kinks:,} gradients agree[/green], at worst {worst:.1e} of the "
            "parameter's largest gradient (allowed 1e-06)"
        )
