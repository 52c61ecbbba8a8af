// Functions of one number x, from the text that they are written in: "x/(1 + exp(-x))", "sqrt(x + 1e-05)".
// Python's operators with its precedence; nothing of a page's own language is run.

const CONSTANTS = { pi: Math.PI };
const FUNCTIONS = { exp: Math.exp, log: Math.log, sqrt: Math.sqrt, tanh: Math.tanh, cos: Math.cos, sin: Math.sin, max: Math.max, erf };
const TOKEN = /\s*(?:(\d+(?:\.\d*)?(?:e[-+]?\d+)?)|([a-z]+)|(\*\*|[-+*/(),>]))/gy;
const SIGN = 4; // how tightly a sign before a number binds
// Of each operator between two numbers how tightly it binds, what stands to its right, and what it does.
const OPERATORS = {
  ">": [1, 2, (a, b) => (a > b ? 1 : 0)],
  "+": [2, 3, (a, b) => a + b],
  "-": [2, 3, (a, b) => a - b],
  "*": [3, 4, (a, b) => a * b],
  "/": [3, 4, (a, b) => a / b],
  "**": [5, SIGN, (a, b) => a ** b],
};
const known = new Map([["", (x) => x]]);

/** The function of x that a text writes. Throws SyntaxError where it is none. */
export function functionOf(text) {
  if (!known.has(text)) known.set(text, parsed(text));
  return known.get(text);
}

function parsed(text) {
  const tokens = [];
  const wrong = () => new SyntaxError(`no function of x: ${text}`);
  TOKEN.lastIndex = 0;
  while (TOKEN.lastIndex < text.trimEnd().length) {
    const found = TOKEN.exec(text);
    if (!found) throw wrong();
    tokens.push(found);
  }
  let at = 0;
  const next = () => tokens[at]?.[3];
  const take = (operator) => {
    if (next() !== operator) throw wrong();
    at += 1;
  };

  /** What binds at least so tightly. */
  function expression(least) {
    let value = next() === "-" ? negative() : single();
    for (let found = OPERATORS[next()]; found?.[0] >= least; found = OPERATORS[next()]) {
      at += 1;
      const [left, right, of] = [value, expression(found[1]), found[2]];
      value = (x) => of(left(x), right(x));
    }
    return value;
  }
  function negative() {
    take("-");
    const of = expression(SIGN);
    return (x) => -of(x);
  }
  function single() {
    const [, number, name] = tokens[at] ?? [];
    if (number === undefined && name === undefined) {
      const [inner, ...others] = inParentheses();
      if (others.length) throw wrong();
      return inner;
    }
    at += 1;
    if (number !== undefined) return () => Number(number);
    if (name === "x") return (x) => x;
    if (name in CONSTANTS) return () => CONSTANTS[name];
    if (!(name in FUNCTIONS)) throw wrong();
    const given = inParentheses();
    return (x) => FUNCTIONS[name](...given.map((own) => own(x)));
  }
  function inParentheses() {
    take("(");
    const found = [expression(1)];
    while (next() === ",") {
      take(",");
      found.push(expression(1));
    }
    take(")");
    return found;
  }

  const whole = expression(1);
  if (at !== tokens.length) throw wrong();
  return whole;
}

/** The error function: its series near 0, and from 2.5 on the continued fraction of what is missing to 1.
    Abramowitz and Stegun, "Handbook of Mathematical Functions" (1964), 7.1.6 and 7.1.14. */
export function erf(x) {
  const size = Math.abs(x);
  if (!(size < 6)) return Number.isNaN(x) ? x : Math.sign(x);
  if (size < 2.5) {
    let term = size;
    let sum = size;
    for (let n = 1; term > sum * 1e-17; n += 1) {
      term *= (2 * size * size) / (2 * n + 1);
      sum += term;
    }
    return (Math.sign(x) * 2 * Math.exp(-size * size) * sum) / Math.sqrt(Math.PI);
  }
  let fraction = 0;
  for (let n = 60; n > 0; n -= 1) fraction = n / 2 / (size + fraction);
  return Math.sign(x) * (1 - Math.exp(-size * size) / (Math.sqrt(Math.PI) * (size + fraction)));
}
