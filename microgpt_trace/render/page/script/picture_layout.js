// Where the parts of the picture stand: columns from left to right, and a lane for each token.

const TOP = 74; // y of the first lane
const [LOW, LANE, CHOSEN] = [24, 63, 122]; // heights of lanes
const MOST_HIGH = 8; // with more lanes, all lanes but the chosen one are low
const GAP = 18;
const LEAST_HEAD = 56; // smallest width of a head

/** The columns and lanes of the picture in a width. `layer` is the layer that is open. If not all of its heads fit, only
    the first heads of `heads` are shown. */
export function layOut({ page, run, position, layer, heads }, width) {
  const isLow = run.length > MOST_HIGH;
  let y = TOP;
  const lanes = run.tokens.map((_, at) => {
    const lane = { at, y, height: at === position ? CHOSEN : isLow ? LOW : LANE, isLow: isLow && at !== position };
    y += lane.height + (isLow ? 3 : 6);
    return lane;
  });
  const { columns, titles } = columnsOf(page, layer, heads, width);
  return { lanes, columns, titles, width, top: TOP, height: y };
}

function columnsOf(page, layer, order, width) {
  const scale = Math.min(1.15, width / 1232);
  const strip = Math.max(40, 82 * scale);
  const gap = Math.max(8, GAP * scale);
  const list = page.picture.tables.map((name, nth, tables) => ({ kind: "table", name, nth, of: tables.length, width: strip, isUnder: nth > 0, caption: nth ? "+ place" : "letter" }));
  list.push({ kind: "stream", name: page.picture.first, width: strip, caption: "= one row" });
  for (const { layer: at, parts } of page.picture.layers) {
    if (at !== layer) list.push({ kind: "layer", layer: at, width: 48 });
    else parts.forEach((part, n) => list.push(...columnsOfPart(part, parts[n - 1], strip, scale)));
  }
  list.push({ kind: "answer", width: Math.max(112, 128 * scale) });
  const room = (column) => (column.kind === "head" || column.isUnder ? 0 : column.width + gap + (column.plus ? 12 : 0));
  const fixed = 66 + 12 + list.reduce((sum, column) => sum + room(column), 0);
  const free = width - fixed - gap;
  const shown = new Set(order.slice(0, Math.max(1, Math.floor(free / LEAST_HEAD))));
  const all = list.filter(({ kind }) => kind === "head");
  const heads = all.filter(({ head }) => shown.has(head));
  for (const head of heads) head.width = free / heads.length;
  const columns = list.filter((column) => column.kind !== "head" || heads.includes(column));
  let x = 66 + gap / 2;
  for (const column of columns) {
    if (column.isUnder) {
      column.x = list[0].x;
      continue;
    }
    column.x = x + (column.plus ? 12 : 0);
    x = column.x + column.width + (column.kind === "head" && column !== heads.at(-1) ? 0 : gap);
  }
  const units = columns.find(({ kind }) => kind === "units");
  return { columns, titles: { tables: 0, heads: heads.length ? { x: heads[0].x, shown: heads.length, count: all.length } : null, units, answer: list.at(-1).x } };
}

function columnsOfPart({ attention, heads, units, stream }, before, strip, scale) {
  if (attention) return heads.map((event, head) => ({ kind: "head", attention, event, head, width: 0 }));
  if (units) return [{ kind: "units", name: units, width: Math.max(48, 98 * scale) }];
  return [{ kind: "stream", name: stream, width: strip, plus: true, caption: before?.units ? "+ what MLP says" : "+ what it took" }];
}
