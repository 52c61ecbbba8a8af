// Where a reader of a page is, as the part of its address behind #: a link to it shows the same.

const KEPT = ["[", "]", ",", ":", "@", "/"]; // what an address has as it is

/** Text as an address has it: a blank is a +. */
export const escaped = (text) => KEPT.reduce((found, char) => found.replaceAll(encodeURIComponent(char), char), encodeURIComponent(text)).replaceAll("%20", "+");

function decoded(text) {
  try {
    return decodeURIComponent(text.replace(/\+/g, " "));
  } catch {
    return text;
  }
}

/** layer0.attn.q[3,5]&step=250: a name, and settings by their keys. */
export function written({ name, settings = {} }) {
  return [escaped(name), ...Object.entries(settings).map(([key, value]) => `${escaped(key)}=${escaped(String(value))}`)].filter(Boolean).join("&");
}

/** The name that an address begins with, if it does, and its keys with their values, in order. */
export function partsOf(hash) {
  const parts = hash.replace(/^#/, "").split("&").map((part) => [part, part.indexOf("=")]);
  const pairs = parts.filter(([, at]) => at >= 0).map(([part, at]) => [decoded(part.slice(0, at)), decoded(part.slice(at + 1))]);
  return { name: decoded(parts.find(([part, at]) => part && at < 0)?.[0] ?? ""), pairs };
}

/** The place that an address tells. */
export function read(hash) {
  const { name, pairs } = partsOf(hash);
  return { name, settings: Object.fromEntries(pairs) };
}

/** A name without its index, and the index: "layer0.attn.q[3,5]" is ["layer0.attn.q", [3, 5]]. */
export function split(name) {
  const found = /^(.*)\[(\d+(?:,\d+)*)\]$/.exec(name);
  return found ? [found[1], found[2].split(",").map(Number)] : [name, []];
}
