"""The numbers of a plan's rows, each worked out by its float64 reference, with gradients that are drawn."""

import numpy as np
from support.other_plans import values_of

from microgpt_trace.architecture.formulas.traced_element import KnownTarget
from microgpt_trace.architecture.model import TraceInput
from microgpt_trace.architecture.operations.reference_inputs import ReferenceInputs


class Numbers:
    """A run of the references of a plan, with random gradients: the rows are judged one by one."""

    replaced = frozenset()

    def __init__(self, model, tokens):
        self.model, self.plan, self.length = model, model.plan, len(tokens)
        self.given = ReferenceInputs(model, tokens)
        targets = (*tokens[1:], None)
        labels = tuple(map(str, tokens))
        self.inputs = TraceInput("", tuple(tokens), targets, labels, (*labels[1:], None))
        self.shapes = {**self.plan.shapes(self.length), **self.plan.parameters}
        rng, self.arrays = np.random.default_rng(5), {}
        for name, value in values_of(model, tokens).items():
            self.arrays["forward", name] = value
            self.arrays["backward", name] = rng.standard_normal(value.shape)
        self.arrays["backward", "loss"] = np.float64(1)

    def parameter(self, name):
        return np.asarray(self.model.parameter(name), float)

    def array(self, name, kind="forward"):
        return self.arrays[kind, name]

    def at(self, name, spots, kind="forward"):
        stored = kind == "forward" and name in self.plan.parameters
        return (self.parameter(name) if stored else self.array(name, kind))[spots]

    def value(self, name, index, kind="forward"):
        return float(self.at(name, index, kind))

    def value_if_kept(self, name, index, kind="forward"):
        stored = kind == "forward" and name in self.plan.parameters
        return self.value(name, index, kind) if stored or (kind, name) in self.arrays else None

    @property
    def known_targets(self):
        known = [(p, token) for p, token in enumerate(self.inputs.targets) if token is not None]
        chances = self.array("probs")
        return [KnownTarget(p, t, float(chances[p, t]), float(-np.log(chances[p, t]))) for p, t in known]

    def label(self, token):
        return str(token)
