// The status page: asks the API every few seconds and shows what it answers. What it shows at a time is of one answer.

import {Curve, drawBar} from "./drawing.js";
import {MOST_EVENTS_KEPT, ROWS, TRAFFIC, savings} from "./rows.js";
import * as show from "./shown.js";
import {Table, fillList, fillSentences, setAttribute, setText} from "./tables.js";
import {WORDS, verdictOf} from "./verdict.js";

const $ = (id) => document.getElementById(id);

// Relative, so that a proxy may serve this below a path; fetch takes no address that has a password in it.
const API = new URL("../api/v1/tiered/", location.href);
API.username = API.password = "";
// Over TCP this takes the place of a token: see the password in docs/API.md.
const HEADERS = {"X-Tierfs-Page": "1"};
const PATIENCE_MS = 15_000;
// What looks at all files is asked for so often at most, and for a fiftieth of the time at most.
const SLOW_MS = 30_000;
const SLOW_SHARE = 50;
const MOST_POINTS = 720;
const UNSEEN = "The kernel passes hot files through: what is read and written of them is not seen here.";
const HELD = {pace: "tierfs-pace", theme: "tierfs-theme"};

const model = {status: null, activity: null, jobs: null, plan: null, cost: null, events: [], derived: {}, isFew: false};
const heard = {atMs: 0, answers: 0, failure: "", isWaiting: false, timer: 0, slowFromMs: 0, isReckoning: false};
const trails = {};
const tables = Object.fromEntries([...document.querySelectorAll("[data-table]")].map(
  (place) => [place.dataset.table, new Table(place)]));
const curves = Object.fromEntries([...document.querySelectorAll(".chart")].map((figure) => {
  const name = figure.querySelector(".name").textContent;
  return [name.toLowerCase(), new Curve(figure, name)];
}));

// -- asking -----------------------------------------------------------------------------------------------------------

async function ask(what) {
  const answer = await fetch(new URL(what, API), {headers: HEADERS, cache: "no-store", signal: AbortSignal.timeout(PATIENCE_MS)});
  if (answer.ok) return answer;
  let said = "";
  try {
    said = (await answer.json()).error.message;
  } catch {
    said = `status ${answer.status}`;
  }
  throw new Error(answer.status === 401 ? "the token is not accepted: load this page again" : said);
}

const json = async (what) => (await ask(what)).json();

// What is asked every time. What one of them does not say must not hide what the others do.
async function askAll() {
  const last = model.events.at(-1)?.number ?? 0;
  const [stats, activity, jobs, events] = await Promise.allSettled(
    [json("stats?quick=true"), json("activity"), json("jobs"), ask(`events?after=${last}`).then((one) => one.text())]);
  if (stats.status === "rejected") throw stats.reason;
  model.status = stats.value.status;
  model.activity = activity.status === "fulfilled" ? activity.value : null;
  if (jobs.status === "fulfilled") model.jobs = jobs.value;
  if (events.status === "fulfilled") addEvents(events.value, last);
  derive();
}

function addEvents(lines, last) {
  const found = lines.split("\n").filter(Boolean).map((line) => JSON.parse(line)).filter((one) => one.number > last);
  model.events = [...model.events, ...found].slice(-MOST_EVENTS_KEPT);
}

function derive() {
  const {hits = 0, misses = 0} = model.status.cache ?? {};
  model.derived = {hit_rate: hits + misses ? hits / (hits + misses) : null};
  const now = Date.now();
  for (const tier of ["hot", "warm", "cold", "cache"]) {
    trails[tier] = [...(trails[tier] ?? []), [now, model.status[tier]?.bytes ?? 0]].slice(-MOST_POINTS);
  }
  if (model.activity) deriveRates(model.activity);
}

// Totals begin with the worker: between those of two workers there is no rate.
function deriveRates({as_of_ns: atNs, since_ns: sinceNs, bytes, operations}) {
  const counts = Object.values(operations).map((one) => one.count);
  const totals = {...bytes, opens: operations.open?.count ?? 0, operations: counts.reduce((sum, one) => sum + one, 0)};
  const before = model.traffic;
  if (before?.sinceNs === sinceNs && atNs <= before.atNs) return;
  const seconds = before?.sinceNs === sinceNs ? (atNs - before.atNs) / 1e9 : null;
  const rates = Object.entries(totals).map(([name, now]) => [name, seconds ? (now - before.totals[name]) / seconds : null]);
  model.traffic = {atNs, sinceNs, totals, rates: Object.fromEntries(rates)};
}

async function turn() {
  clearTimeout(heard.timer);
  if (document.hidden || heard.isWaiting) return;
  heard.isWaiting = true;
  try {
    await askAll();
    heard.atMs = Date.now();
    heard.answers += 1;
    heard.failure = "";
  } catch (error) {
    const isSilent = error instanceof TypeError || error.name === "TimeoutError" || error.name === "AbortError";
    heard.failure = isSilent ? "no answer" : error.message;
  }
  heard.isWaiting = false;
  render();
  if (!heard.failure && Date.now() >= heard.slowFromMs) reckon();
  wait();
}

function wait() {
  clearTimeout(heard.timer);
  const seconds = Number($("pace").value);
  if (seconds) heard.timer = setTimeout(turn, seconds * 1000);
}

// Plan and cost look at all files, so they are asked one after the other, and seldom.
async function reckon() {
  if (heard.isReckoning) return;
  heard.isReckoning = true;
  const began = performance.now();
  for (const [name, what] of [["plan", "plan?limit=1000"], ["cost", "cost"]]) {
    try {
      model[name] = await json(what);
    } catch (error) {
      model[name] = {refusal: error.message};
    }
  }
  const took = performance.now() - began;
  heard.slowFromMs = Date.now() + Math.max(SLOW_MS, took * SLOW_SHARE);
  heard.isReckoning = false;
  setText($("reckoned"), `at ${show.clock(Date.now() * 1e6)}, in ${show.duration(took / 1e3)}`);
  render();
}

// -- showing ----------------------------------------------------------------------------------------------------------

function render() {
  renderVerdict();
  if (!model.status) return;
  const {status} = model;
  setText($("mountpoint"), status.mountpoint);
  setText($("store"), status.store);
  setText($("version"), status.version);
  setText($("passthrough"), status.passthrough);
  for (const node of document.querySelectorAll("[data-of]")) fillFigure(node);
  renderTiers();
  renderTraffic();
  renderMoney();
  for (const [name, table] of Object.entries(tables)) table.fill(ROWS[name](model));
  document.documentElement.dataset.asOfNs = String(status.as_of_ns);
  document.documentElement.dataset.answers = String(heard.answers);
}

function fillFigure(node) {
  const value = show.at(model, node.dataset.of);
  const text = show.shown(value, node.dataset.as);
  setText(node, text);
  if (node.tagName === "DATA") setAttribute(node, "value", show.isKnown(value) ? value : null);
  else if (value) setAttribute(node, "datetime", new Date(value / 1e6).toISOString());
}

function renderVerdict() {
  const isAway = Boolean(heard.failure);
  const now = Date.now();
  const found = model.status ? verdictOf(model, now) : {level: "unknown", checks: [], text: "The mount was not heard of yet."};
  const level = isAway ? "trouble" : found.level;
  const since = heard.atMs ? ` since ${show.clock(heard.atMs * 1e6)}` : "";
  const silence = heard.failure === "no answer" ? `Not answered${since}: the worker, or the way to it, is away.` : `Refused${since}: ${heard.failure}.`;
  const word = isAway ? "NO ANSWER" : model.status ? WORDS[level] : "ASKING";
  for (const id of ["verdict", "verdict-word"]) setAttribute($(id), "data-level", level);
  document.body.classList.toggle("stale", isAway);
  setText($("verdict-word"), word);
  setText($("verdict-text"), isAway ? silence : found.text);
  document.title = model.status ? `${word} · ${show.visible(model.status.mountpoint)} · tierfs` : "tierfs";
  const checks = isAway ? found.checks.map((one) => ({...one, level: "unknown", text: `was ${WORDS[one.level]}: ${one.text}`})) : found.checks;
  fillList($("checks"), checks, makeCheck, tellCheck);
  const warnings = model.status?.warnings ?? [];
  $("warnings").hidden = !warnings.length;
  setText($("warnings-count"), warnings.length === 1 ? "1 warning" : `${warnings.length} warnings`);
  fillSentences($("warnings-list"), warnings);
  renderFreshness();
}

function makeCheck() {
  const made = document.createElement("li");
  for (const kind of ["word", "name", "text"]) made.append(Object.assign(document.createElement("span"), {className: kind}));
  return made;
}

function tellCheck(node, {name, level, text}) {
  const [word, title, words] = node.children;
  setAttribute(word, "data-level", level);
  setText(word, WORDS[level]);
  setText(title, name);
  setText(words, text);
}

function renderFreshness() {
  const seconds = (Date.now() - heard.atMs) / 1000;
  const age = heard.atMs ? `Figures are of ${show.clock(heard.atMs * 1e6)}` : "";
  const isOld = heard.atMs && (heard.failure || seconds > 10);
  setText($("freshness"), isOld ? `${age}, ${show.span(seconds)} ago.` : age && `${age}.`);
}

// The worker's history is hours long; what this page saw itself is the rest.
function pointsOf(tier) {
  const fill = model.activity?.fill ?? [];
  const known = fill.map((one) => [one.at_ns / 1e6, one[`${tier}_bytes`]]).filter(([, value]) => show.isKnown(value));
  const seen = trails[tier] ?? [];
  const last = known.at(-1)?.[0] ?? 0;
  return known.length ? [...known, ...seen.filter(([ms]) => ms > last)] : seen;
}

function renderTiers() {
  const shares = ["hot", "warm", "cold"].map((tier) => [tier, model.status[tier]?.bytes ?? 0]);
  const words = shares.map(([tier, bytes]) => `${tier} ${show.size(bytes)}`).join(", ");
  drawBar($("tiers-bar"), shares, `Where the bytes are: ${words}`);
  for (const [tier, curve] of Object.entries(curves)) curve.draw(pointsOf(tier));
}

function renderTraffic() {
  const {activity, traffic} = model;
  const isSeen = activity?.io_mode !== "passthrough";
  const known = activity ? TRAFFIC.filter(([, , whenSeen]) => (whenSeen ?? isSeen) === isSeen) : [];
  fillList($("traffic"), known, makeTile, (node, [name, title, , kind = "size"]) => {
    const [head, value, total] = node.children;
    setText(head, title);
    setText(value, show.shown(traffic.rates[name], kind === "size" ? "rate" : "frequency"));
    setText(total, `${show.shown(traffic.totals[name], kind)} in all`);
  });
  const since = activity ? `Totals since ${show.date(activity.since_ns)}.` : "The worker tells nothing of it.";
  setText($("traffic-note"), activity?.unseen ? `${since} ${UNSEEN}` : since);
}

function makeTile() {
  const made = document.createElement("li");
  for (const kind of ["name", "big", "hint"]) made.append(Object.assign(document.createElement("span"), {className: kind}));
  return made;
}

function renderMoney() {
  const {plan, cost} = model;
  const planned = plan?.refusal ?? (plan && `The policy would move ${show.files(plan.files)} now, ${show.size(plan.bytes)}.`);
  setText($("plan-words"), planned ?? "");
  const isKnown = Boolean(cost?.month);
  $("savings").hidden = !isKnown;
  if (!isKnown) {
    if (cost) setText($("savings-words"), cost.refusal);
    return;
  }
  const {words, months} = savings(cost);
  setText($("savings-words"), words);
  $("savings-words").className = "strong";
  const most = Math.max(...months.map(([, month]) => Number(month.total)), 1e-12);
  fillList($("savings-bars"), months, makeMonth, (node, [name, month, of]) => tellMonth(node, name, month, of, most));
  fillSentences($("savings-warnings"), cost.warnings);
  const {storage_class: storageClass, date, source} = cost.prices;
  setText($("savings-prices"), `By ${source} (${date})${storageClass ? `, ${storageClass}` : ""}.`);
}

function makeMonth() {
  const made = document.createElement("li");
  made.append(Object.assign(document.createElement("span"), {className: "name"}),
    Object.assign(document.createElement("progress"), {max: 1}), document.createElement("data"));
  return made;
}

function tellMonth(node, name, month, of, most) {
  const [title, bar, amount] = node.children;
  setText(title, name);
  bar.value = Number(month.total) / most;
  setAttribute(bar, "aria-label", `${name}: ${show.dollars(month.total)} a month`);
  setAttribute(amount, "value", month.total);
  setAttribute(amount, "data-of", of);
  setAttribute(amount, "data-as", "dollars");
  setText(amount, show.dollars(month.total));
}

// -- being told -------------------------------------------------------------------------------------------------------

function recall(name) {
  try {
    return localStorage.getItem(HELD[name]);
  } catch {
    return null; // a browser that keeps nothing
  }
}

function keep(name, value) {
  try {
    localStorage.setItem(HELD[name], value);
  } catch {
    // It holds for as long as the page is open.
  }
}

function setUp() {
  for (const name of ["pace", "theme"]) {
    const select = $(name), kept = recall(name);
    if (kept !== null && [...select.options].some((one) => one.value === kept)) select.value = kept;
    select.addEventListener("change", () => keep(name, select.value));
  }
  const paint = () => { document.documentElement.dataset.theme = $("theme").value; };
  paint();
  $("theme").addEventListener("change", paint);
  $("pace").addEventListener("change", wait);
  $("ask").addEventListener("click", turn);
  $("reckon").addEventListener("click", reckon);
  $("events-few").addEventListener("change", () => { model.isFew = $("events-few").checked; render(); });
  document.addEventListener("visibilitychange", turn);
  setInterval(() => { if (!document.hidden) renderFreshness(); }, 1000);
  turn();
}

setUp();
