// Arrays that a page works out itself, and the roundings by which the run lies apart from them: see roundings.py.

import { allOf } from "./formulas.js";

/** An array of the run from the formulas whose sum it is, the steps of its roundings, the numbers that are held
    themselves, and the sum that tells whether it is right. Throws RangeError where it is not. */
export function restored(formulas, run, { steps, numbers, total }) {
  const whole = new Float64Array(steps.length);
  for (const formula of formulas) allOf(formula, run).forEach((value, n) => { whole[n] += value; });
  return rounded(Float32Array.from(whole), steps, numbers, total);
}

function rounded(values, steps, numbers, total) {
  const bits = new Int32Array(values.buffer);
  let next = 0;
  let sum = 0n;
  steps.forEach((step, n) => {
    if (step === 0) {
      values[n] = numbers[next];
      next += 1;
    } else {
      const place = placeOf(bits[n]) + step - 128;
      bits[n] = place >= 0 ? place : -place | 0x80000000;
    }
    sum += BigInt(placeOf(bits[n]));
  });
  if (BigInt.asUintN(32, sum) !== BigInt(total)) throw new RangeError("could not be restored by this browser");
  return values;
}

/** The place of a float32 among all, by its bits. */
const placeOf = (bits) => (bits >= 0 ? bits : -(bits & 0x7fffffff));
