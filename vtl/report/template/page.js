"use strict";
// A click on a heading sorts its table: text up and numbers down at first, then the other way.
for (const table of document.querySelectorAll("table.sortable")) {
  const headings = [...table.querySelectorAll("thead th")];
  headings.forEach((heading, column) => {
    heading.querySelector("button").addEventListener("click", () => {
      const body = table.tBodies[0];
      const rows = [...body.rows];
      const key = (row) => row.cells[column].dataset.value ?? row.cells[column].textContent.trim();
      const isNumber = rows.every((row) => "value" in row.cells[column].dataset);
      const before = heading.ariaSort;
      const isDescending = before ? before === "ascending" : isNumber;
      const order = (a, b) => (isNumber ? key(a) - key(b) : key(a).localeCompare(key(b)));
      rows.sort((a, b) => (isDescending ? order(b, a) : order(a, b)));
      body.append(...rows);
      headings.forEach((other) => other.removeAttribute("aria-sort"));
      heading.ariaSort = isDescending ? "descending" : "ascending";
    });
  });
}
// What is folded on the screen must not be missing on paper.
addEventListener("beforeprint", () => {
  for (const folded of document.querySelectorAll("details")) folded.open = true;
});
