// Colours of numbers. The stops of both scales are CSS properties, which depend on the colour scheme.

const STOPS = 9;

/** A function that returns the red, green and blue of a number. The scale of the kind "share" runs from 0 to
    `end`, and the scale of the kind "signed" runs from -end to end. */
export function scaleOf(kind, end = 1) {
	const style = getComputedStyle(document.documentElement);
	const stops = Array.from({length: STOPS}, (_, n) =>
		style.getPropertyValue(`--${kind}-${n}`).match(/\d+/g).map(Number)
	);
	return value => {
		const share = end > 0 ? value / end : 0;
		const at = Math.max(0, Math.min(1, kind === "share" ? share : (share + 1) / 2)) * (STOPS - 1);
		const left = Math.min(Math.floor(at), STOPS - 2);
		return stops[left].map((part, channel) =>
			Math.round(part + (stops[left + 1][channel] - part) * (at - left))
		);
	};
}

/** A function that returns the colour of a number as CSS, or "none" if the number is not finite. */
export function paintOf(kind, end) {
	const colorOf = scaleOf(kind, end);
	return value => (Number.isFinite(value) ? `rgb(${colorOf(value).join(" ")})` : "none");
}

/** The colours of a scale from its lowest to its highest number, as a background. */
export const gradientOf = kind =>
	`linear-gradient(to right, ${Array.from({length: STOPS}, (_, n) => `var(--${kind}-${n})`)})`;

/** Black or white, whichever stands out from the colour. */
export function inkOn([red, green, blue]) {
	const linear = part => (part <= 10 ? part / 255 / 12.92 : ((part / 255 + 0.055) / 1.055) ** 2.4);
	return 0.2126 * linear(red) + 0.7152 * linear(green) + 0.0722 * linear(blue) < 0.179 ? "#fff" : "#000";
}
