"""Patch each site in a run of its own: python benchmarks/rerun.py MODEL CLEAN CORRUPT [--compare]

`microgpt patch` computes the same numbers in one pass. --compare prints the largest difference from them.
"""

from __future__ import annotations

import sys

import numpy as np

from microgpt_trace import load, patch
from microgpt_trace.arrays.stats import Array
from microgpt_trace.hooks.event import TraceEvent


def main(path: str, clean: str, corrupt: str) -> None:
    model = load(path)
    one_pass = patch(model, clean, corrupt) if "--compare" in sys.argv else None
    names = ["embed.tok", "layer*.mlp.residual"]
    clean_values: dict[str, Array] = {}

    def keep(event: TraceEvent, value: Array) -> None:
        clean_values[event.name] = value.copy()

    inputs = [model.read(text) for text in (clean, corrupt)]
    last = len(inputs[0].tokens) - 1
    with model.hooks.subscribe(keep, *names):
        ends = [model.logits(inputs[0], [last], model.hooks.begin().tap("forward"))[0]]
    ends.append(model.logits(inputs[1], [last])[0])
    target, against = (int(logits.argmax()) for logits in ends)
    high, low = (float(logits[target] - logits[against]) for logits in ends)
    restored = {}
    for name in clean_values:
        for position in range(last + 1):

            def put(event: TraceEvent, value: Array, row: int = position) -> Array:
                patched = value.copy()
                patched[row] = clean_values[event.name][row]
                return patched

            with model.hooks.subscribe(put, name):
                logits = model.logits(inputs[1], [last], model.hooks.begin().tap("forward"))[0]
            restored[f"{name}@{position}"] = (float(logits[target] - logits[against]) - low) / (high - low)
    print(f"{len(restored)} sites")
    if one_pass is not None:
        expected = {f"{cell.name}@{cell.position}": cell.restored for cell in one_pass.cells}
        assert set(expected) == set(restored)
        difference = max(np.abs(expected[site] - restored[site]) for site in expected)
        print(f"largest difference from one pass: {difference:.1e}")


if __name__ == "__main__":
    main(*sys.argv[1:4])
