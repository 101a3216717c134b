"use strict";

// A chart: what is pointed at or focused is told below it. One mark is in
// the order of tabs; arrows, Home and End go to the others.
for (const chart of document.querySelectorAll(".chart")) {
  const readout = chart.querySelector(".readout");
  const marks = [...chart.querySelectorAll("[role=listitem]")];
  const tell = (mark) => {
    const label = mark.getAttribute("aria-label");
    if (marks.includes(mark)) readout.textContent = label;
  };
  const move = (from, to) => {
    from.setAttribute("tabindex", "-1");
    to.setAttribute("tabindex", "0");
    to.focus();
    tell(to);  // a window in the background gets no event
  };
  chart.addEventListener("pointerover", (event) => tell(event.target));
  chart.addEventListener("focusin", (event) => tell(event.target));
  chart.addEventListener("keydown", (event) => {
    const here = marks.indexOf(event.target);
    const last = marks.length - 1;
    const goal = {
      ArrowRight: here + 1, ArrowDown: here + 1,
      ArrowLeft: here - 1, ArrowUp: here - 1, Home: 0, End: last,
    }[event.key];
    if (here < 0 || goal === undefined) return;
    event.preventDefault();
    move(marks[here], marks[Math.min(Math.max(goal, 0), last)]);
  });
}

// A table: the button of a column sorts by it, and again the other way.
const key = (row, column) => {
  const cell = row.cells[column];
  return cell.dataset.value === undefined
    ? cell.textContent : Number(cell.dataset.value);
};
const compare = (a, b) =>
  typeof a === "number" ? a - b : a.localeCompare(b);

for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    head.querySelector("button").addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const rows = [...table.tBodies[0].rows];
      rows.sort((a, b) =>
        (down ? -1 : 1) * compare(key(a, column), key(b, column)));
      table.tBodies[0].append(...rows);
    });
  });
}

// Paper can't unfold.
let folded = [];
window.addEventListener("beforeprint", () => {
  folded = [...document.querySelectorAll("details:not([open])")];
  folded.forEach((part) => part.setAttribute("open", ""));
});
window.addEventListener("afterprint", () => {
  folded.forEach((part) => part.removeAttribute("open"));
});
