// The place that a page shows, as the part of its address behind #, so that a link shows the same place.

const UNESCAPED = ["[", "]", ",", ":", "@", "/"]; // characters that stay as they are in an address

/** Escape text for an address; a blank becomes +. */
export const escaped = (text) => UNESCAPED.reduce((result, char) => result.replaceAll(encodeURIComponent(char), char), encodeURIComponent(text)).replaceAll("%20", "+");

function decoded(text) {
  try {
    return decodeURIComponent(text.replace(/\+/g, " "));
  } catch {
    return text;
  }
}

/** The address of a place: layer0.attn.q[3,5]&step=250 has a name and the settings by their keys. */
export function written({ name, settings = {} }) {
  return [escaped(name), ...Object.entries(settings).map(([key, value]) => `${escaped(key)}=${escaped(String(value))}`)].filter(Boolean).join("&");
}

/** The first part of an address without "=", which is a name, and its keys with their values, in order. */
export function partsOf(hash) {
  const parts = hash.replace(/^#/, "").split("&").map((part) => [part, part.indexOf("=")]);
  const pairs = parts.filter(([, at]) => at >= 0).map(([part, at]) => [decoded(part.slice(0, at)), decoded(part.slice(at + 1))]);
  return { name: decoded(parts.find(([part, at]) => part && at < 0)?.[0] ?? ""), pairs };
}

/** The place of an address. */
export function read(hash) {
  const { name, pairs } = partsOf(hash);
  return { name, settings: Object.fromEntries(pairs) };
}

/** Split a name from its index: "layer0.attn.q[3,5]" is ["layer0.attn.q", [3, 5]]. */
export function split(name) {
  const [, array, index] = /^(.*)\[(\d+(?:,\d+)*)\]$/.exec(name) ?? [];
  return array === undefined ? [name, []] : [array, index.split(",").map(Number)];
}
