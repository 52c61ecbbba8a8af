// Names of elements, as the command line has them: layer0.attn.q[3,4], and where they stand in words.

/** The name of an element, or of an array where no index is given. */
export const nameOf = (name, index = []) => (index.length ? `${name}[${index.join(",")}]` : name);

/** The last part of a name: "q". */
export const lastOf = (name) => name.slice(name.lastIndexOf(".") + 1);

/** The array and the channel of what can be taken out: "layer0.mlp.act[:,7]", or the whole of an array. */
export function partOf(text) {
  const [, name, channel] = /^(.*?)(?:\[:,(\d+)\])?$/s.exec(text);
  return { name, channel: channel === undefined ? undefined : Number(channel) };
}

/** The layer of an array; null of none. */
export const layerOf = (name) => (/^layer\d+\./.test(name) ? Number.parseInt(name.slice(5), 10) : null);

/** The name that an array has in every layer. */
export const withoutLayer = (name) => name.replace(/^layer\d+\./, "");

/** Name, index and which of value, gradient and update, of an address; null where the page has no such array. */
export function parsed(address, page) {
  const found = /^(?:(gradient|update) )?([^[\]]+?)(?:\[([0-9, ]*)\])?$/.exec(address);
  if (!found || !page.knows(found[2])) return null;
  const index = found[3] ? found[3].split(",").map(Number) : [];
  return { of: found[1] ?? "value", name: found[2], index };
}

/** The address of an element. */
export const addressOf = ({ of, name, index }) => (of === "value" ? "" : `${of} `) + nameOf(name, index);

/** A token at a position: "position 3 (m)". */
export const positionOf = (run, position) => `position ${position} (${run.labels[position]})`;

/** Where an element stands, in words. */
export function placeInWords(page, run, name, index) {
  const said = page.axesOf(name).map((axis, n) => {
    const at = index[n];
    if (axis === "query" || axis === "key") return `${axis} at ${positionOf(run, at)}`;
    if (axis === "position") return page.has(name) ? positionOf(run, at) : `position ${at}`;
    if (axis === "token") return `token ${page.tokensOf(name)[at] ?? `#${at}`}`;
    return `${axis} ${at}${axis === "channel" ? inHead(page, name, at) : ""}`;
  });
  return said.join(", ") || `the mean over ${run.targets.filter((target) => target !== null).length} predictions`;
}

function inHead(page, name, channel) {
  const { dim } = page.row(name);
  return dim ? ` (head ${Math.floor(channel / dim)}, its channel ${channel % dim})` : "";
}
