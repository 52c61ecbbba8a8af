// A map of shares as a picture in which keys move a cursor. It replaces the table that the page shows without
// scripts. A link under the picture shows the table.

import { make } from "./dom.js";
import { matrix } from "./matrix.js";
import { exact } from "./numbers.js";

/** The picture of `grid`, which has a title, labels of rows and columns, values (null for no value), the `end` of the
    colours, and the name of each cell. `table` is the table to replace, or null. factsOf(name) is text about a name. */
export function gridView(grid, { table = null, key, choose, factsOf }) {
  const valueAt = (row, column) => (grid.values[row][column] === null ? Number.NaN : Number(grid.values[row][column]));
  const looked = make("p", { class: "looked n" }, "\u00a0");
  const data = {
    rows: grid.rows.length, columns: grid.columns.length, key, title: grid.title, valueAt, table: false,
    kind: grid.kind ?? "signed", end: grid.end ?? 1,
    isMasked: grid.values.flat().includes(null) ? (row, column) => grid.values[row][column] === null : undefined,
    hatched: "none", rowLabels: grid.rows, columnLabels: grid.columns, chosen: null, brief: (value) => value.toFixed(2),
    largest: 56, rowHeight: 20, labelRoom: 140,
    describe: (row, column) => `${grid.rows[row]}, ${grid.across[column]}: ${grid.values[row][column] === null ? "none" : exact(valueAt(row, column))}${factsOf(grid.names[row][column])}`,
    numberAt: (row, column) => (grid.values[row][column] === null ? "–" : exact(valueAt(row, column))),
    onlook: (row, column) => looked.replaceChildren(data.describe(row, column)),
    onpick: (row, column) => grid.names[row][column] && choose(grid.names[row][column]),
  };
  const picture = matrix(data);
  const figure = make("div", { class: "figure map" }, grid.heading ? make("h3", {}, grid.heading) : null, picture, looked);
  if (table) {
    const box = table.closest(".wide");
    box.replaceWith(figure);
    figure.append(make("details", { class: "behind" }, make("summary", {}, "show as a table"), box));
  }
  figure.resized = () => picture.resized(figure.clientWidth);
  figure.show = ({ name }) => {
    data.chosen = null;
    grid.names.forEach((names, row) => {
      if (name && names.includes(name)) data.chosen = [row, names.indexOf(name)];
    });
    picture.resized(figure.clientWidth);
    return data.chosen !== null;
  };
  return figure;
}
