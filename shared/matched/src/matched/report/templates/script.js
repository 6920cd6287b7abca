"use strict";
// Long tables show their first rows, as laying out 10,000 takes seconds; a button shows more. All
// rows are sorted, filtered and printed. The page hides the rows after the first ones, because a
// browser lays out a growing table again and again while it loads.
const FIRST_ROWS = Number(document.body.dataset.firstRows);
class Rows {
  constructor(table) {
    this.body = table.tBodies[0];
    this.all = [...this.body.rows];
    this.limit = FIRST_ROWS;
    this.keep = () => true;
    this.button = document.createElement("button");
    this.button.type = "button";
    this.button.className = "more";
    this.button.addEventListener("click", () => {
      this.limit += 5 * FIRST_ROWS;
      this.render();
    });
    table.closest(".scroll").after(this.button);
    this.body.replaceChildren();
    for (const row of this.all) row.hidden = false;
    this.render();
  }
  render(limit = this.limit) {
    const chosen = this.all.filter(this.keep);
    const left = Math.max(0, chosen.length - limit);
    this.body.replaceChildren(...chosen.slice(0, limit));
    this.button.hidden = left === 0;
    this.button.textContent = `Show more of ${left} further rows`;
    return chosen.length;
  }
}
const tables = new Map();
for (const table of document.querySelectorAll("table.sortable")) {
  tables.set(table, new Rows(table));
}
addEventListener("beforeprint", () => tables.forEach((rows) => rows.render(Infinity)));
addEventListener("afterprint", () => tables.forEach((rows) => rows.render()));
// Sorting by a click on a heading; a cell's data-value takes precedence over its text.
function sortKey(row, column) {
  const cell = row.cells[column];
  const text = cell.dataset.value ?? cell.textContent.trim();
  const value = parseFloat(text.replace("−", "-"));
  return Number.isNaN(value) ? text : value;
}
function compare(a, b) {
  if (typeof a === typeof b) return typeof a === "number" ? a - b : a < b ? -1 : a > b ? 1 : 0;
  return typeof a === "number" ? -1 : 1;
}
for (const [table, rows] of tables) {
  table.tHead.addEventListener("click", (event) => {
    const heading = event.target.closest("th");
    if (!heading) return;
    const descending = heading.getAttribute("aria-sort") === "ascending";
    for (const other of heading.parentNode.cells) other.removeAttribute("aria-sort");
    heading.setAttribute("aria-sort", descending ? "descending" : "ascending");
    const keyed = rows.all.map((row) => [sortKey(row, heading.cellIndex), row]);
    keyed.sort((a, b) => (descending ? compare(b[0], a[0]) : compare(a[0], b[0])));
    rows.all = keyed.map(([, row]) => row);
    rows.render();
  });
}
// Filters: every word has to be in the row.
for (const form of document.querySelectorAll("form[data-filters]")) {
  const rows = tables.get(document.getElementById(form.dataset.filters));
  const texts = new Map(rows.all.map((row) => [row, row.textContent.toLowerCase()]));
  const apply = () => {
    const words = form.elements.text.value.toLowerCase().split(/\s+/).filter(Boolean);
    const scale = form.elements.scale.value;
    const problems = form.elements.problems.checked;
    rows.keep = (row) =>
      words.every((word) => texts.get(row).includes(word)) &&
      (!scale || row.dataset.scale === scale) &&
      (!problems || row.className !== "");
    form.querySelector("output").textContent = `${rows.render()} of ${rows.all.length} rows`;
  };
  form.addEventListener("input", apply);
  form.addEventListener("submit", (event) => event.preventDefault());
  apply();
}
