// Functions of one number x, parsed from a text such as "x/(1 + exp(-x))" or "sqrt(x + 1e-05)". Operators and their
// precedence are those of Python. The text is never run as JavaScript.

const CONSTANTS = { pi: Math.PI };
const FUNCTIONS = { exp: Math.exp, log: Math.log, sqrt: Math.sqrt, tanh: Math.tanh, cos: Math.cos, sin: Math.sin, max: Math.max, min: Math.min, erf };
const TOKEN = /\s*(?:(\d+(?:\.\d*)?(?:e[-+]?\d+)?)|([a-z]+)|(\*\*|[-+*/(),>]))/gy;
const SIGN = 4; // precedence of a minus sign before a number
// For each binary operator: its precedence, the lowest precedence in its right operand, and its function.
const OPERATORS = {
  ">": [1, 2, (a, b) => (a > b ? 1 : 0)],
  "+": [2, 3, (a, b) => a + b],
  "-": [2, 3, (a, b) => a - b],
  "*": [3, 4, (a, b) => a * b],
  "/": [3, 4, (a, b) => a / b],
  "**": [5, SIGN, (a, b) => a ** b],
};
const cache = new Map([["", (x) => x]]);

/** The function of x that a text describes, such as "exp(x)". Throws SyntaxError for other texts. */
export function functionOf(text) {
  if (!cache.has(text)) cache.set(text, parse(text));
  return cache.get(text);
}

function parse(text) {
  const tokens = [];
  const wrong = () => new SyntaxError(`expected a function of x, found ${text}`);
  TOKEN.lastIndex = 0;
  while (TOKEN.lastIndex < text.trimEnd().length) {
    const token = TOKEN.exec(text);
    if (!token) throw wrong();
    tokens.push(token);
  }
  let at = 0;
  const next = () => tokens[at]?.[3];
  const take = (operator) => {
    if (next() !== operator) throw wrong();
    at += 1;
  };

  /** Parse an expression of operators with at least this precedence. */
  function expression(least) {
    let value = next() === "-" ? negative() : single();
    for (let operator = OPERATORS[next()]; operator?.[0] >= least; operator = OPERATORS[next()]) {
      at += 1;
      const [left, right, apply] = [value, expression(operator[1]), operator[2]];
      value = (x) => apply(left(x), right(x));
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
    const operands = inParentheses();
    return (x) => FUNCTIONS[name](...operands.map((operand) => operand(x)));
  }
  function inParentheses() {
    take("(");
    const items = [expression(1)];
    while (next() === ",") {
      take(",");
      items.push(expression(1));
    }
    take(")");
    return items;
  }

  const parsed = expression(1);
  if (at !== tokens.length) throw wrong();
  return parsed;
}

/** The error function, by a series below 2.5, and by the continued fraction of 1 - erf(x) from 2.5 on.
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
