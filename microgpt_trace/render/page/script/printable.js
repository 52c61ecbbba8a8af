// Text as a page may show it, as text/printable.py and text/command_lines.py have it for a terminal: nothing in
// it turns the reading direction or is without a shape. Knows no element.

const SHAPELESS = /[\p{C}\p{Zl}\p{Zp}]|(?![ \u00a0])\p{Zs}/u;
const ALL_SHAPELESS = new RegExp(SHAPELESS, "gu");
const SHORT = { "\n": "\\n", "\r": "\\r", "\t": "\\t" };

/** The text with what has no shape of its own spelled out: U+202E as \u202e. */
export const onOneLine = (text) => (SHAPELESS.test(text) ? text.replace(ALL_SHAPELESS, (char) => SHORT[char] ?? spelled(char, true)) : text);

function spelled(char, short = false) {
  const code = char.codePointAt(0);
  const digits = (count) => code.toString(16).padStart(count, "0");
  if (short && code < 0x100) return `\\x${digits(2)}`;
  return code < 0x10000 ? `\\u${digits(4)}` : `\\U${digits(8)}`;
}

/** A word as a POSIX shell takes it, on one line; what has no shape as bash and zsh spell it. */
export function quoted(word) {
  if (SHAPELESS.test(word)) return `$'${word.replace(/[\\']/g, (char) => spelled(char)).replace(ALL_SHAPELESS, (char) => spelled(char))}'`;
  return /^[\w@%+=:,./-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`;
}
