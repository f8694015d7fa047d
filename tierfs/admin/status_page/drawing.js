// Bars and curves as SVG. What they show is said in words as well; a curve can be walked along with the arrow keys.

import {clock, size} from "./shown.js";

const SVG = "http://www.w3.org/2000/svg";
const WIDTH = 300;
const HEIGHT = 72;

export function element(name, attributes = {}) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, String(value));
  return made;
}

// Shares of a whole beside each other; each is [class, value].
export function drawBar(svg, shares, words) {
  const total = shares.reduce((sum, [, value]) => sum + value, 0);
  let x = 0;
  const rectangles = shares.map(([kind, value]) => {
    const width = total ? (value / total) * 1000 : 0;
    const made = element("rect", {x: x.toFixed(2), y: 0, width: width.toFixed(2), height: 16, class: kind});
    x += width;
    return made;
  });
  svg.replaceChildren(...rectangles);
  svg.setAttribute("aria-label", words);
}

// A curve of [ms, value] over time, from 0 up. Hovering or the arrow keys say what it was at a moment.
export class Curve {
  constructor(figure, name, show = size) {
    this.show = show;
    this.name = name;
    this.points = [];
    this.chosen = null;
    this.svg = element("svg", {viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img", tabindex: 0});
    this.area = element("path", {class: "area"});
    this.line = element("path", {class: "line", "vector-effect": "non-scaling-stroke"});
    this.mark = element("path", {class: "mark", "vector-effect": "non-scaling-stroke"});
    this.svg.append(this.area, this.line, this.mark);
    this.legend = document.createElement("p");
    this.legend.className = "legend";
    figure.append(this.svg, this.legend);
    this.svg.addEventListener("pointermove", (event) => this.choose(this.nearest(event)));
    this.svg.addEventListener("pointerleave", () => this.choose(null));
    this.svg.addEventListener("blur", () => this.choose(null));
    this.svg.addEventListener("keydown", (event) => this.walk(event));
  }

  draw(points) {
    const last = this.points.length - 1;
    const wasLast = this.chosen === last;
    this.points = points;
    if (this.chosen !== null) this.chosen = wasLast ? points.length - 1 : Math.min(this.chosen, points.length - 1);
    this.top = Math.max(0, ...points.map(([, value]) => value));
    const outline = points.map(([ms, value]) => `${this.x(ms).toFixed(1)},${this.y(value).toFixed(1)}`).join("L");
    const isCurve = points.length > 1;
    this.line.setAttribute("d", isCurve ? `M${outline}` : "");
    this.area.setAttribute("d", isCurve ? `M0,${HEIGHT}L${outline}L${WIDTH},${HEIGHT}Z` : "");
    this.say();
  }

  x(ms) {
    const [from, to] = [this.points[0][0], this.points.at(-1)[0]];
    return to > from ? ((ms - from) / (to - from)) * WIDTH : 0;
  }

  y(value) {
    return HEIGHT - 1 - (this.top ? value / this.top : 0) * (HEIGHT - 4);
  }

  nearest(event) {
    if (this.points.length < 2) return null;
    const box = this.svg.getBoundingClientRect();
    const x = ((event.clientX - box.left) / box.width) * WIDTH;
    const distances = this.points.map(([ms]) => Math.abs(this.x(ms) - x));
    return distances.indexOf(Math.min(...distances));
  }

  walk(event) {
    const last = this.points.length - 1;
    const at = this.chosen ?? last;
    const to = {ArrowLeft: at - 1, ArrowRight: at + 1, Home: 0, End: last, Escape: null}[event.key];
    if (to === undefined || last < 1) return;
    event.preventDefault();
    this.choose(to === null ? null : Math.min(last, Math.max(0, to)));
  }

  choose(index) {
    this.chosen = index;
    this.say();
  }

  say() {
    const {points, chosen} = this;
    if (points.length < 2) {
      this.legend.textContent = "No history yet.";
      this.svg.setAttribute("aria-label", `${this.name}: no history yet`);
      this.mark.setAttribute("d", "");
      return;
    }
    const [from, to] = [points[0], points.at(-1)];
    const all = `${clock(from[0] * 1e6)} to ${clock(to[0] * 1e6)}, at most ${this.show(this.top)}`;
    const here = chosen === null ? null : points[chosen];
    this.legend.textContent = here ? `${clock(here[0] * 1e6)}: ${this.show(here[1])}` : all;
    const words = here ? this.legend.textContent : `${all}; ${this.show(from[1])} first, ${this.show(to[1])} now`;
    this.svg.setAttribute("aria-label", `${this.name}: ${words}`);
    this.mark.setAttribute("d", here ? `M${this.x(here[0]).toFixed(1)},0V${HEIGHT}` : "");
  }
}
