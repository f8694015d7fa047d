// What the tables say: rows of cells, cells of parts (see tables.js). Pure, but for the time of day.

import * as show from "./shown.js";

const MOST_ROWS = 10;
const MOST_EVENTS = 200;
// Kinds of events that are more than the mount doing its work.
const SERIOUS = new Set(["failure", "breaker", "lease", "storm", "unfit", "cold-process", "take-over", "gap", "slow", "room"]);

const path = (text) => ({kind: "path", text});
const hint = (text) => ({kind: "hint", text});
const plain = (text) => ({text: String(text)});
const time = (ns) => ({kind: "time", ns, text: show.clock(ns)});
const bar = (done, of, text) => ({kind: "bar", done, of, text});

function figure(value, kind) {
  return {kind: "figure", value: show.isKnown(value) ? value : null, text: show.shown(value, kind)};
}

function transfers({activity}) {
  return (activity?.transfers ?? []).slice(0, MOST_ROWS).map((one) => {
    const share = one.bytes > 0 ? one.done_bytes / one.bytes : 0;
    const words = `${show.size(one.done_bytes)} of ${show.size(one.bytes)}`;
    return [[path(one.path), hint(`${one.verb} since ${show.clock(one.begun_ns)}`)],
      [bar(one.done_bytes, one.bytes, words), hint(`${words}, ${show.percent(share)}`)]];
  });
}

function readers({status}) {
  return (status.cold_readers ?? []).slice(0, MOST_ROWS).map((one) => [
    [path(one.command), hint(`process ${one.pid}, user ${one.name || one.uid}${one.is_storm ? "; a storm" : ""}`)],
    [figure(one.bytes, "size"), hint(`${show.number(one.requests)} requests, ${show.files(one.files)}`)],
    [path(one.directory || "/"), hint(one.denied ? `refused ${show.number(one.denied)} times` : one.access)],
  ]);
}

function requests({status, activity}) {
  const known = activity?.store?.requests;
  if (known && Object.keys(known).length) {
    return Object.entries(known).map(([name, one]) => [[plain(name)], [figure(one.count, "number")],
      [figure(one.failed, "number")], [figure(one.p50_s, "duration")], [figure(one.p99_s, "duration")]]);
  }
  return Object.entries(status.store_io?.requests_by_operation ?? {}).map(([name, count]) => [[plain(name)],
    [figure(count, "number")], [plain("–")], [plain("–")], [plain("–")]]);
}

function candidates({activity, plan}) {
  const planned = (plan?.actions ?? []).map((one) => ({...one, path: one.segment_path, size: one.size_bytes}));
  const known = activity?.candidates ?? [];
  const found = [...(known.length ? known : planned)].sort((one, other) => other.size - one.size);
  return found.slice(0, MOST_ROWS).map((one) => [
    [path(one.path), hint(`${one.verb}: ${one.reason}`)], [figure(one.size, "size")]]);
}

function hottest({activity}) {
  return (activity?.hottest ?? []).slice(0, MOST_ROWS).map((one) => [[path(one.path)], [plain(one.tier)],
    [figure(one.opens, "number")], [figure(one.bytes, "size")]]);
}

function jobs({jobs: found}) {
  return [...(found?.jobs ?? [])].reverse().slice(0, MOST_ROWS).map((one) => {
    const words = one.files ? `${show.number(one.done)} of ${show.files(one.files)}` : "looking";
    const failed = one.failed ? `, ${show.number(one.failed)} failed` : "";
    return [[plain(one.verb), hint(one.id)], [plain(one.state), hint(one.reason)],
      [bar(one.done, one.files, words), hint(`${words}${failed}, ${show.size(one.done_bytes)}`)], [time(one.begun * 1e9)]];
  });
}

function errors({activity}) {
  return [...(activity?.errors ?? [])].sort((one, other) => other.at_ns - one.at_ns).slice(0, 50).map((one) => [
    [time(one.at_ns)], [plain(one.operation), path(one.path), hint(one.error)]]);
}

function failing({status}) {
  return Object.entries(status.errors?.files ?? {}).map(([name, why]) => [[path(name), hint(why)]]);
}

function events({events: found, isFew}) {
  const kept = isFew ? found.filter((one) => SERIOUS.has(one.kind)) : found;
  return kept.slice(-MOST_EVENTS).reverse().map((one) => {
    const what = one.before || one.after ? `${one.before}${one.before && one.after ? " → " : ""}${one.after}` : one.kind;
    const took = one.duration_ns ? ` in ${show.duration(one.duration_ns / 1e9)}` : "";
    const size = one.bytes ? `${show.size(one.bytes)}${took}` : took.trim();
    const details = [size, one.reason].filter(Boolean).join("; ");
    const parts = [{kind: `event ${SERIOUS.has(one.kind) ? "serious" : ""}`.trim(), text: one.kind === "residency" ? what : `${one.kind}${what === one.kind ? "" : ` ${what}`}`}];
    if (one.path) parts.push(path(one.path));
    if (details) parts.push(hint(details));
    return [[time(one.at_ns)], parts];
  });
}

export const ROWS = {transfers, readers, requests, candidates, hottest, jobs, errors, failing, events};
export const MOST_EVENTS_KEPT = 1000;

// Totals to make rates of: name, title, whether it is for mounts whose hot I/O is seen or for the others, kind.
export const TRAFFIC = [
  ["operations", "FUSE requests", undefined, "number"],
  ["opens", "Opens", undefined, "number"],
  ["read_hot", "Read from hot files", true],
  ["written_hot", "Written", true],
  ["grown_hot", "Hot tier grows by", false],
  ["read_cold", "Read from cold files"],
  ["read_cached", "Taken from the cache"],
  ["downloaded", "Downloaded"],
  ["uploaded", "Uploaded"],
];

// What a month costs, in words and as [name, dollars].
export function savings(cost) {
  const {now, all_hot: allHot, policy} = cost.month;
  const saved = Number(allHot.total) - Number(now.total);
  const share = Number(allHot.total) > 0 ? ` (${show.percent(Math.abs(saved) / Number(allHot.total))})` : "";
  const words = saved >= 0
    ? `Tiering saves ${show.dollars(saved)} a month${share} against all on the SSD.`
    : `Tiering costs ${show.dollars(-saved)} a month more${share} than all on the SSD.`;
  const more = Number(now.total) - Number(policy.total);
  const rest = Math.abs(more) < 0.00005 ? "" : more > 0
    ? ` What the policy would do now saves ${show.dollars(more)} more.` : ` What the policy would do now costs ${show.dollars(-more)} more.`;
  return {words: words + rest, months: [["now", now, "cost.month.now.total"], ["all hot", allHot, "cost.month.all_hot.total"],
    ["under the policy", policy, "cost.month.policy.total"]]};
}
