// Tables that are filled again and again without moving what somebody reads, marks or has focused.

import * as show from "./shown.js";

// Whatever is shown goes through here: as text, never as markup, and all of it visible.
export function setText(node, text) {
  const seen = show.visible(text);
  if (node.textContent !== seen) node.textContent = seen;
}

export function setAttribute(node, name, value) {
  if (value === null || value === undefined) node.removeAttribute(name);
  else if (node.getAttribute(name) !== String(value)) node.setAttribute(name, String(value));
}

// As many children as there are items; each is made once and told its item whenever there is another one.
export function fillList(parent, items, make, tell) {
  while (parent.children.length > items.length) parent.lastElementChild.remove();
  items.forEach((item, index) => {
    if (index === parent.children.length) parent.append(make(item));
    tell(parent.children[index], item);
  });
}

export function fillSentences(list, sentences) {
  fillList(list, sentences, () => document.createElement("li"), setText);
}

// A part of a cell: {text, kind?, ns?, done?, of?, value?}. All of it is text, whatever is in it.
const PARTS = {
  path: () => Object.assign(document.createElement("bdi"), {className: "path"}),
  time: () => document.createElement("time"),
  bar: () => Object.assign(document.createElement("progress"), {max: 1}),
  figure: () => document.createElement("data"),
};

function makePart(part) {
  const make = PARTS[part.kind] ?? (() => Object.assign(document.createElement("span"), {className: part.kind ?? ""}));
  const made = make();
  made.dataset.kind = part.kind ?? "";
  return made;
}

function tellPart(node, part) {
  if (part.kind === "bar") {
    const share = part.of > 0 ? Math.min(1, part.done / part.of) : 0;
    if (node.value !== share) node.value = share;
    setAttribute(node, "aria-label", part.text);
    return;
  }
  if (part.kind === "time") {
    setAttribute(node, "datetime", new Date(part.ns / 1e6).toISOString());
    setAttribute(node, "title", show.date(part.ns));
  }
  if (part.kind === "figure") setAttribute(node, "value", part.value);
  setText(node, part.text);
}

function tellCell(cell, parts) {
  const isOther = cell.children.length !== parts.length
    || parts.some((part, index) => cell.children[index].dataset.kind !== (part.kind ?? ""));
  if (isOther) cell.replaceChildren(...parts.map(makePart));
  parts.forEach((part, index) => tellPart(cell.children[index], part));
}

// A table with its caption and head, made out of what the page says of it.
export class Table {
  constructor(place) {
    const {heads, caption, empty, numbers = "", scrolls} = place.dataset;
    this.numbers = numbers.split(" ").map((one) => Number(one) - 1);
    this.table = document.createElement("table");
    const title = document.createElement("caption");
    title.textContent = caption;
    const row = document.createElement("tr");
    heads.split("|").forEach((text, index) => {
      const head = Object.assign(document.createElement("th"), {scope: "col", textContent: text});
      head.classList.toggle("number", this.numbers.includes(index));
      row.append(head);
    });
    const top = document.createElement("thead");
    top.append(row);
    this.body = document.createElement("tbody");
    this.table.append(title, top, this.body);
    this.nothing = Object.assign(document.createElement("p"), {className: "empty", textContent: empty});
    place.append(this.nothing, this.table);
    this.scrolling = scrolls === undefined ? null : place;
    if (this.scrolling) {
      place.classList.add("scrolls");
      setAttribute(place, "role", "region");
      setAttribute(place, "aria-label", caption);
    }
    this.fill([]);
  }

  // Rows are arrays of cells, cells arrays of parts.
  fill(rows) {
    this.table.hidden = !rows.length;
    this.nothing.hidden = rows.length > 0;
    if (this.scrolling) setAttribute(this.scrolling, "tabindex", rows.length ? 0 : null); // by keyboard, too
    fillList(this.body, rows, (cells) => this.makeRow(cells), (row, cells) => {
      cells.forEach((parts, index) => tellCell(row.children[index], parts));
    });
  }

  makeRow(cells) {
    const row = document.createElement("tr");
    cells.forEach((_, index) => {
      const cell = document.createElement(index === 0 ? "th" : "td");
      if (index === 0) cell.scope = "row";
      cell.classList.toggle("number", this.numbers.includes(index));
      row.append(cell);
    });
    return row;
  }
}
