// Functions of one number x, from trees such as ["exp", ["USub", "x"]]. The operators have the names of
// Python's syntax.

const FUNCTIONS = new Map(
	Object.entries({
		Add: (a, b) => a + b,
		Sub: (a, b) => a - b,
		Mult: (a, b) => a * b,
		Div: (a, b) => a / b,
		Pow: (a, b) => a ** b,
		Gt: (a, b) => (a > b ? 1 : 0),
		USub: a => -a,
		max: Math.max,
		min: Math.min,
		exp: Math.exp,
		log: Math.log,
		floor: Math.floor,
		sqrt: Math.sqrt,
		tanh: Math.tanh,
		cos: Math.cos,
		sin: Math.sin,
		erf
	})
);

/** The function of x that a tree describes. Throws SyntaxError for other trees. */
export function functionOf(tree) {
	if (tree === "x") return x => x;
	if (typeof tree === "number") return () => tree;
	const [name, ...operands] = tree;
	const apply = FUNCTIONS.get(name);
	if (!apply) throw new SyntaxError(`expected a function of x, found ${name}`);
	const [first, second] = operands.map(functionOf);
	return second ? x => apply(first(x), second(x)) : x => apply(first(x));
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
