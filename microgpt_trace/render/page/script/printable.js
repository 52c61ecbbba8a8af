// Make text safe to show, as text/printable.py does for a terminal: characters that have no shape, or that
// change the reading direction, are spelled out.

const SHAPELESS = /[\p{C}\p{Zl}\p{Zp}]|(?![ \u00a0])\p{Zs}/u;
const ALL_SHAPELESS = new RegExp(SHAPELESS, "gu");
const SHORT = {"\n": "\\n", "\r": "\\r", "\t": "\\t"};

/** Spell out the characters of a text that have no shape, such as U+202E as \u202e. */
export const onOneLine = text =>
	SHAPELESS.test(text) ? text.replace(ALL_SHAPELESS, char => SHORT[char] ?? spelled(char, true)) : text;

function spelled(char, short = false) {
	const code = char.codePointAt(0);
	const digits = count => code.toString(16).padStart(count, "0");
	if (short && code < 0x100) return `\\x${digits(2)}`;
	return code < 0x10000 ? `\\u${digits(4)}` : `\\U${digits(8)}`;
}

/** Quote a word for a POSIX shell, on one line. Characters without a shape are escaped for bash and zsh. */
export function quoted(word) {
	const spell = char => spelled(char);
	if (SHAPELESS.test(word)) return `$'${word.replace(/[\\']/g, spell).replace(ALL_SHAPELESS, spell)}'`;
	return /^[\w@%+=:,./-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`;
}
