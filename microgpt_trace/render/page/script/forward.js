// The forward pass of a small model, from its parameters and the formulas of its plan, in float64.
// Knows nothing of what is shown.

import { allOf } from "./formulas.js";

/** What is changed in a run: `events` take a name to a function that changes its array in place, `parameters`
    a name to a Float64Array in its place. */
export const UNCHANGED = Object.freeze({ events: new Map(), parameters: new Map() });

/** Run the plan over tokens. `plan` has the names of events in order of computation with their formulas and
    parts, `parameter(name)` arrays, `shapeOf(name, length)`. */
export function forwardRun(plan, tokens, targets, changes = UNCHANGED) {
  const arrays = new Map();
  const run = {
    tokens,
    targets,
    length: tokens.length,
    shape: (name) => plan.shapeOf(name, tokens.length),
    array(name, gradient = false) {
      if (gradient) return undefined;
      return arrays.get(name) ?? changes.parameters.get(name) ?? plan.parameter(name);
    },
    has: (name, gradient = false) => !gradient && arrays.has(name),
  };
  for (const event of plan.events) {
    const isChanged = event.parts.some((part) => changes.events.has(part));
    const value = allOf(isChanged ? event.ofParts : event.formula, run);
    changes.events.get(event.name)?.(value, run.shape(event.name));
    arrays.set(event.name, value);
  }
  return run;
}
