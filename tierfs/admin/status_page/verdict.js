// How the mount is, in words: one check for each question that somebody has who was woken up. Pure.

import {clock, duration, files, hours, isKnown, number, percent, rate, size, span} from "./shown.js";

export const LEVELS = ["good", "unknown", "watch", "trouble"];
export const WORDS = {good: "OK", watch: "WATCH", trouble: "TROUBLE", unknown: "UNKNOWN"};

const LITTLE_TIME_S = 4 * 3600;
const A_DAY_S = 86400;
const LITTLE_ROOM_BYTES = 2 ** 30;
// An error of a quarter of an hour ago may be over.
const LATELY_S = 900;
// So many are named by `status`.
const MOST_FAILING = 20;

// `brief` is for the one line above all checks, `more` goes on with it.
function check(name, level, brief, more = "") {
  return {name, level, brief, text: brief + more};
}

function mountCheck({status}) {
  const times = status.succession?.take_overs ?? 0;
  const again = times ? `; ${times === 1 ? "a worker ended once" : `workers ended ${times} times`}, the next one went on` : "";
  return check("Mount", "good", `serves${status.read_only ? ", read-only" : ""}${again}`);
}

function bucketCheck({status, activity}) {
  const kinds = Object.entries(status.breaker ?? {});
  if (!kinds.length) return check("Bucket", "unknown", "not known: the process that talks to it is being started");
  const away = kinds.filter(([, one]) => one.state === "open");
  const tried = kinds.filter(([, one]) => one.state === "half-open");
  const [kind, found] = away[0] ?? tried[0] ?? [];
  if (found) {
    const what = away.length + tried.length === kinds.length ? "" : ` to ${kind}`;
    const verb = away.length ? "does not answer" : "is tried again";
    return check("Bucket", "trouble", `${verb}${what} since ${clock(found.since_ns)}`, `: ${found.reason}`);
  }
  const failing = kinds.find(([, one]) => one.failures > 0);
  if (failing) {
    const times = failing[1].failures === 1 ? "the last request failed" : `the last ${number(failing[1].failures)} requests failed`;
    return check("Bucket", "watch", times, `: ${failing[1].reason}`);
  }
  // Renewals pass by the breaker; while there is no lease, little else is asked.
  if (["lapsed", "unreached"].includes(status.lease?.state)) return check("Bucket", "trouble", "not reached to renew the lease");
  const late = Object.entries(activity?.store?.requests ?? {}).filter(([, one]) => isKnown(one.p99_s));
  const [name, slowest] = late.sort(([, one], [, other]) => other.p99_s - one.p99_s)[0] ?? [];
  return check("Bucket", "good", slowest ? `answers, the slowest of late within ${duration(slowest.p99_s)} (${name})` : "nothing was asked of late");
}

function leaseCheck({status}) {
  const lease = status.lease;
  if (!lease) {
    const text = status.read_only ? "not needed: the mount is read-only" : "not known";
    return check("Lease", status.read_only ? "good" : "unknown", text);
  }
  if (lease.state === "held") return check("Lease", "good", `held since ${clock(lease.taken_ns)}`);
  const level = lease.state === "waiting" ? "watch" : "trouble";
  return check("Lease", level, `${lease.state}, so nothing is archived or deleted in the bucket`, `: ${lease.reason}`);
}

function roomCheck({status}) {
  const runway = status.runway;
  if (!runway) return check("SSD", "unknown", "not known");
  const outlook = runway.is_down ? runway.down : runway.up;
  const free = `${size(runway.free_bytes)} free`;
  if (outlook.state === "filling") {
    const pace = ` at ${rate(outlook.bytes_per_second)}${runway.is_down ? ", as nothing can be released now" : ""}`;
    const level = outlook.seconds < LITTLE_TIME_S ? "trouble" : outlook.seconds < A_DAY_S ? "watch" : "good";
    return check("SSD", level, `full in ${hours(outlook.seconds)}`, `${pace}; ${free}`);
  }
  if (runway.free_bytes < LITTLE_ROOM_BYTES) return check("SSD", "watch", `only ${free}`);
  if (outlook.state === "steady") return check("SSD", "good", `not filling; ${free}`);
  return check("SSD", "good", `${free}; how fast it fills is known after half an hour`);
}

function filesCheck({status}) {
  const lost = status.lost?.files ?? 0;
  if (lost) return check("Files", "trouble", `the bytes of ${files(lost)} are gone from the bucket`, ` (${size(status.lost.bytes)})`);
  const corrupt = status.cold_reads?.corrupt_chunks ?? 0;
  if (corrupt) return check("Files", "watch", `nothing is lost; ${number(corrupt)} chunks came damaged and were not used`);
  return check("Files", "good", "nothing is lost");
}

function errorsCheck({status, activity}, nowMs) {
  const lately = (activity?.errors ?? []).filter((one) => nowMs / 1e3 - one.at_ns / 1e9 < LATELY_S);
  const reasons = Object.values(status.errors?.files ?? {});
  const failing = reasons.length;
  const parts = [];
  const told = lately.filter((one) => one.operation !== "background").length;
  if (told) parts.push(`programs were told of ${told === 1 ? "an error" : `${number(told)} errors`} in the last ${span(LATELY_S)}`);
  if (failing) parts.push(`${files(failing)}${failing < MOST_FAILING ? "" : " or more"} could not be moved`);
  if (parts.length) return check("Errors", "watch", parts.join("; "), failing ? `: ${reasons[0]}` : "");
  const before = status.errors?.reads ?? 0;
  return check("Errors", "good", before ? `none lately; ${number(before)} before` : "none");
}

function readsCheck({status, activity, derived}) {
  const storming = (status.cold_readers ?? []).filter((one) => one.is_storm);
  if (storming.length) {
    const one = storming[0];
    return check("Cold reads", "watch", `a storm of ${one.command}`, ` (process ${one.pid}): ${size(one.bytes)} in a minute`);
  }
  const slow = activity?.cold_waits?.p99_s;
  const hits = isKnown(derived?.hit_rate) ? `; ${percent(derived.hit_rate)} of all chunks were in the cache` : "";
  const words = isKnown(slow) ? `of late 99 of 100 waited ${duration(slow)} at most` : "nobody waited of late";
  return check("Cold reads", "good", words + hits);
}

const CHECKS = [mountCheck, bucketCheck, leaseCheck, roomCheck, filesCheck, errorsCheck, readsCheck];

// The checks, the worst level of all, and a sentence.
export function verdictOf(model, nowMs) {
  const checks = CHECKS.map((one) => one(model, nowMs));
  const level = LEVELS[Math.max(...checks.map((one) => LEVELS.indexOf(one.level)))];
  const bad = checks.filter((one) => one.level === level);
  const all = "The mount serves, nothing is lost, and nothing fails.";
  return {level, checks, text: level === "good" ? all : bad.map((one) => `${one.name}: ${one.brief}.`).join(" ")};
}
