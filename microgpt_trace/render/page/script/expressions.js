// Functions of one number x, from the text that they are written in: "x/(1 + exp(-x))", "sqrt(x + 1e-05)".
// Python's operators with its precedence; nothing of a page's own language is run.

const CONSTANTS = { pi: Math.PI };
const FUNCTIONS = { exp: Math.exp, log: Math.log, sqrt: Math.sqrt, tanh: Math.tanh, cos: Math.cos, sin: Math.sin, erf };
const TOKEN = /\s*(?:(\d+(?:\.\d*)?(?:e[-+]?\d+)?)|([a-z]+)|(\*\*|[-+*/(),>]))/gy;
const known = new Map([["", (x) => x]]);

/** The function of x that a text writes. Throws SyntaxError where it is none. */
export function functionOf(text) {
  if (!known.has(text)) known.set(text, parsed(text));
  return known.get(text);
}

function parsed(text) {
  const tokens = [];
  TOKEN.lastIndex = 0;
  while (TOKEN.lastIndex < text.trimEnd().length) {
    const found = TOKEN.exec(text);
    if (!found) throw new SyntaxError(`no function of x: ${text}`);
    tokens.push(found);
  }
  let at = 0;
  const next = () => tokens[at]?.[3];
  const take = (operator) => {
    if (next() !== operator) throw new SyntaxError(`no function of x: ${text}`);
    at += 1;
  };

  function compared() {
    const left = added();
    if (next() !== ">") return left;
    take(">");
    const right = added();
    return (x) => (left(x) > right(x) ? 1 : 0);
  }
  function added() {
    let left = multiplied();
    while (next() === "+" || next() === "-") {
      const [before, plus] = [left, next() === "+"];
      at += 1;
      const right = multiplied();
      left = plus ? (x) => before(x) + right(x) : (x) => before(x) - right(x);
    }
    return left;
  }
  function multiplied() {
    let left = signed();
    while (next() === "*" || next() === "/") {
      const [before, times] = [left, next() === "*"];
      at += 1;
      const right = signed();
      left = times ? (x) => before(x) * right(x) : (x) => before(x) / right(x);
    }
    return left;
  }
  function signed() {
    if (next() !== "-") return raised();
    take("-");
    const of = signed();
    return (x) => -of(x);
  }
  function raised() {
    const base = single();
    if (next() !== "**") return base;
    take("**");
    const power = signed();
    return (x) => base(x) ** power(x);
  }
  function single() {
    const [, number, name] = tokens[at] ?? [];
    if (number !== undefined) {
      at += 1;
      return () => Number(number);
    }
    if (name === undefined) {
      take("(");
      const inner = compared();
      take(")");
      return inner;
    }
    at += 1;
    if (name === "x") return (x) => x;
    if (name in CONSTANTS) return () => CONSTANTS[name];
    return called(name);
  }
  function called(name) {
    take("(");
    const first = compared();
    if (name === "max") {
      take(",");
      const second = compared();
      take(")");
      return (x) => Math.max(first(x), second(x));
    }
    take(")");
    if (!(name in FUNCTIONS)) throw new SyntaxError(`no function of x: ${text}`);
    return (x) => FUNCTIONS[name](first(x));
  }

  const whole = compared();
  if (at !== tokens.length) throw new SyntaxError(`no function of x: ${text}`);
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
