// Write numbers as text. Minus signs are U+2212.

const signed = text => text.replaceAll("-", "\u2212");

/** The fewest digits that give the number back, as a float32 if it is one, otherwise as a float64. */
export function exact(value) {
	if (!Number.isFinite(value)) return Number.isNaN(value) ? "NaN" : signed(String(value));
	let digits = 1;
	if (Math.fround(value) === value)
		while (Math.fround(Number(value.toPrecision(digits))) !== value) digits += 1;
	return signed(Math.fround(value) === value ? String(Number(value.toPrecision(digits))) : String(value));
}

/** A number with `digits` significant digits, with an exponent below 1e-4 and from 1e5 on. */
export function short(value, digits = 4) {
	if (!Number.isFinite(value)) return exact(value);
	const size = Math.abs(Number(value.toPrecision(digits)));
	if (size === 0) return "0";
	if (size < 1e-4 || size >= 1e5)
		return signed(value.toExponential(Math.max(1, digits - 1)).replace("e+", "e"));
	return signed(size >= 10 ** digits ? value.toFixed(0) : value.toPrecision(digits));
}

/** Numbers with their decimal points in one column. Shorter fractions end in blanks. */
export function aligned(values, digits) {
	const texts = values.map(value => short(value, digits));
	const tails = texts.map(text => (text.includes(".") ? text.length - text.indexOf(".") : 0));
	return texts.map((text, n) => text + " ".repeat(Math.max(...tails) - tails[n]));
}

/** A probability in percent with three digits. A probability below 0.001 % is written as "1 in 250,000". */
export function chance(p) {
	if (!Number.isFinite(p)) return exact(p);
	if (p === 0) return "0 %";
	if (p < 1e-5)
		return `1 in ${
			p < 1e-12
				? (1 / p).toExponential(1).replace("e+", "e")
				: Number((1 / p).toPrecision(2)).toLocaleString("en")
		}`;
	return `${Number((100 * p).toPrecision(3)) >= 100 ? "100" : (100 * p).toPrecision(3)} %`;
}

/** The tokens in the order of their probabilities. */
export const likeliestFirst = chances =>
	Array.from(chances.keys()).toSorted((a, b) => chances[b] - chances[a] || a - b);

/** What becomes of a probability, such as "falls from 12.3 % to 4.56 %". */
export const moves = (before, after) =>
	chance(before) === chance(after)
		? `stays at ${chance(before)}`
		: `${after < before ? "falls" : "rises"} from ${chance(before)} to ${chance(after)}`;

/** A count with its noun, such as "1 head" or "4 heads". */
export const counted = (count, noun) => `${count} ${noun}${count === 1 ? "" : "s"}`;

/** A share in percent, without decimals. */
export const percent = share => (Number.isFinite(share) ? `${Math.round(100 * share)}` : exact(share));

/** The largest finite magnitude, or 0. */
export const largest = values =>
	values.reduce((most, value) => (Number.isFinite(value) ? Math.max(most, Math.abs(value)) : most), 0);

/** Statistics of the finite elements of an array. `others` is the number of elements that are not finite. */
export function statisticsOf(values, isCounted) {
	const all = values.filter((_, n) => isCounted(n));
	const finite = all.filter(Number.isFinite);
	const sumOf = part => finite.reduce((sum, value) => sum + part(value), 0);
	const mean = sumOf(value => value) / finite.length;
	return {
		count: finite.length,
		others: all.length - finite.length,
		zeros: finite.filter(value => value === 0).length,
		l2: Math.sqrt(sumOf(value => value * value)),
		mean,
		std: Math.sqrt(sumOf(value => (value - mean) ** 2) / finite.length),
		min: finite.reduce((least, value) => Math.min(least, value), Infinity),
		max: finite.reduce((most, value) => Math.max(most, value), -Infinity)
	};
}
