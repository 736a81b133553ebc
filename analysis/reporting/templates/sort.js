"use strict";
// Column heads become buttons that sort their table: ascending, descending, as it was. Without this script, or where
// it fails, the tables stand as they were written.
const PREFIX = { k: 1e3, M: 1e6, G: 1e9, T: 1e12 };
const SUPERSCRIPT = "⁰¹²³⁴⁵⁶⁷⁸⁹";

function measure(words) {
  // A number as the report writes it: "−3.1 × 10¹⁵", "10⁻⁵", "5.24 M", "41.3 %", "+6.1"; NaN for anything else.
  const plain = words.replace(/\s/g, " ").replace(/−/g, "-").trim()
    .replace(/10([⁰¹²³⁴⁵⁶⁷⁸⁹⁻]+)/, (_, raised) =>
      "1e" + [...raised].map((digit) => digit === "⁻" ? "-" : SUPERSCRIPT.indexOf(digit)).join(""));
  const parts = /^([+-]?[\d.]+(?:e-?\d+)?)(?: × (1e-?\d+))?(?: ([kMGT])| %)?$/.exec(plain);
  return parts ? Number(parts[1]) * Number(parts[2] || 1) * (PREFIX[parts[3]] || 1) : NaN;
}

function compare(first, second) {
  const [a, b] = [measure(first), measure(second)];
  return isNaN(a) || isNaN(b) ? first.localeCompare(second, "en", { numeric: true }) : a - b;
}

function arrange(table, column, direction) {
  const body = table.tBodies[0];
  const rows = [...body.rows].sort((a, b) => a.dataset.place - b.dataset.place);
  if (direction !== "none") {
    const words = (row) => row.cells[column].textContent.trim();
    const missing = (row) => words(row) === "–" || words(row) === "";
    const sign = direction === "ascending" ? 1 : -1;
    rows.sort((a, b) => missing(a) - missing(b) || sign * compare(words(a), words(b)));
  }
  body.append(...rows);
}

for (const table of document.querySelectorAll("table")) {
  const heads = [...table.tHead.rows[0].cells];
  if (table.tBodies[0].rows.length < 2) continue;
  [...table.tBodies[0].rows].forEach((row, place) => { row.dataset.place = place; });
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const next = { ascending: "descending", descending: "none" }[head.getAttribute("aria-sort")] || "ascending";
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      if (next !== "none") head.setAttribute("aria-sort", next);
      arrange(table, column, next);
    });
  });
}
