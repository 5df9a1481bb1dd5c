"use strict";
const { classes, photos, suspects, sections, key } = JSON.parse(document.getElementById("data").textContent);
const KEYS = ["y", "n", "?"];
let answers = {};
try {
  answers = JSON.parse(localStorage.getItem(key)) || {};
} catch {
  answers = {};
}

function element(name, className, text = "") {
  const made = document.createElement(name);
  made.className = className;
  made.textContent = text;
  return made;
}

// A picture gets its bytes when it is near, so that thousands of them cost nothing.
const near = new IntersectionObserver((entries) => {
  for (const { target, isIntersecting } of entries) {
    if (!isIntersecting) continue;
    near.unobserve(target);
    for (const image of target.querySelectorAll("img")) image.src = photos[image.dataset.row].photo;
  }
}, { rootMargin: "600px" });

function card(number) {
  const { column, rows, thought } = suspects[number];
  const made = element("li", "card");
  made.tabIndex = -1;
  made.dataset.number = number;
  const pictures = made.appendChild(element("div", rows.length > 1 ? "photos several" : "photos"));
  for (const row of rows) {
    const { name, photo } = photos[row];
    const shown = photo ? element("img", "") : element("span", "", "no picture");
    if (photo) Object.assign(shown, { alt: name, decoding: "async" }).dataset.row = row;
    pictures.append(shown);
  }
  made.append(element("div", "question", `${classes[column]}?`));
  made.append(element("div", "", `thought: ${(100 * thought).toFixed(1)} %`));
  for (const row of rows) {
    made.append(element("div", "", `labelled: ${photos[row].labels}`));
    made.append(element("div", "name", photos[row].name));
  }
  const buttons = made.appendChild(element("div", "answers"));
  for (const answer of KEYS) {
    const button = buttons.appendChild(element("button", "", answer));
    button.type = "button";
    button.tabIndex = -1;
    button.addEventListener("click", () => give(number, answer));
  }
  near.observe(made);
  return made;
}

const cards = [];
for (const [place, { first, end }] of sections.entries()) {
  const list = document.getElementById(`cards-${place}`);
  for (let number = first; number < end; number++) cards.push(list.appendChild(card(number)));
}

function show(number) {
  const given = answers[number];
  const made = cards[number];
  if (given) made.dataset.answer = given;
  else delete made.dataset.answer;
  for (const button of made.querySelectorAll("button")) {
    button.ariaPressed = String(button.textContent === given);
  }
}

function count() {
  const given = Object.keys(answers).length;
  document.getElementById("count").textContent = `${given} of ${suspects.length} answered`;
}

function give(number, answer) {
  if (answers[number] === answer) delete answers[number];
  else answers[number] = answer;
  show(number);
  count();
  try {
    localStorage.setItem(key, JSON.stringify(answers));
  } catch {
    document.getElementById("count").textContent += "; this browser keeps nothing: save before you leave";
  }
}

function select(number) {
  const made = cards[Math.min(Math.max(number, 0), cards.length - 1)];
  if (!made) return;
  made.focus({ preventScroll: true });
  made.scrollIntoView({ block: "nearest" });
}

function perRow(made) {
  const all = [...made.parentElement.children];
  return Math.max(1, all.filter((other) => other.offsetTop === all[0].offsetTop).length);
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const made = document.activeElement.closest(".card");
  const number = made ? Number(made.dataset.number) : -1;
  const steps = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: made && perRow(made), ArrowUp: made && -perRow(made) };
  const answer = event.key.toLowerCase();
  if (event.key in steps) select(made ? number + steps[event.key] : 0);
  else if (made && KEYS.includes(answer)) {
    give(number, answer);
    select(number + 1);
  } else return;
  event.preventDefault();
});

// A spreadsheet must compute nothing; `vtl review apply` takes the mark away again.
function cell(text) {
  const safe = /^[=+\-@]/.test(text) ? `'${text}` : text;
  return /[",\r\n]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
}

function corrections() {
  const lines = ["photo,class,label,was"];
  for (const [number, answer] of Object.entries(answers)) {
    const suspect = suspects[number];
    const given = answer === "n" ? suspect.no : suspect.yes;
    for (const [row, column, value] of given) {
      const was = photos[row].was[column] ?? 0;
      const label = answer === "?" ? "?" : value;
      lines.push([photos[row].id, classes[column], String(label), String(was)].map(cell).join(","));
    }
  }
  return `${lines.join("\n")}\n`;
}

document.getElementById("save").addEventListener("click", () => {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([corrections()], { type: "text/csv" }));
  link.download = "corrections.csv";
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
});

for (const number of Object.keys(answers)) {
  if (cards[number] && KEYS.includes(answers[number])) show(number);
  else delete answers[number];
}
count();
