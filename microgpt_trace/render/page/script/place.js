// Where a reader of a result's page is, as the part of its address behind #: a link to it shows the same.

const escaped = (text) => encodeURIComponent(text).replace(/%5B/g, "[").replace(/%5D/g, "]").replace(/%2C/g, ",").replace(/%3A/g, ":").replace(/%40/g, "@").replace(/%20/g, "+").replace(/%2F/g, "/");

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

/** The place that an address tells. */
export function read(hash) {
  const place = { name: "", settings: {} };
  for (const part of hash.replace(/^#/, "").split("&")) {
    const at = part.indexOf("=");
    if (at < 0) place.name ||= decoded(part);
    else place.settings[decoded(part.slice(0, at))] = decoded(part.slice(at + 1));
  }
  return place;
}

/** Text of strangers with what has no shape of its own spelled out. */
export const visible = (text) => text.replace(/[\p{C}\p{Zl}\p{Zp}]/gu, (char) => `\\u{${char.codePointAt(0).toString(16)}}`);

/** A name without its index, and the index: "layer0.attn.q[3,5]" is ["layer0.attn.q", [3, 5]]. */
export function split(name) {
  const found = /^(.*)\[(\d+(?:,\d+)*)\]$/.exec(name);
  return found ? [found[1], found[2].split(",").map(Number)] : [name, []];
}
