// How figures, times and names are shown. Pure: what is not known is a dash.

const UNKNOWN = "–";
const UNITS = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
const SPANS = [[86400 * 2, "d", 86400], [3600 * 2, "h", 3600], [120, "min", 60], [0, "s", 1]];
const CLOCK = new Intl.DateTimeFormat("en-GB", {hour: "2-digit", minute: "2-digit", second: "2-digit"});
const DATE = new Intl.DateTimeFormat("en-GB", {dateStyle: "medium", timeStyle: "medium"});
const WHOLE = new Intl.NumberFormat("en-US", {maximumFractionDigits: 0});

// Characters that would be invisible, or would turn the text after them around.
const HIDDEN = /[\p{Cc}\p{Cf}\p{Zl}\p{Zp}\p{Co}\p{Cn}]/gu;
// A byte of a name that is no UTF-8, as Python's surrogateescape has it; any other half of a character.
const LONE = /[\ud800-\udbff](?![\udc00-\udfff])|(?<![\ud800-\udbff])[\udc00-\udfff]/g;

export function isKnown(value) {
  return value !== null && value !== undefined && !Number.isNaN(value);
}

function fixed(value) {
  return value < 9.95 ? value.toFixed(1) : value < 999.5 ? value.toFixed(0) : WHOLE.format(value);
}

export function size(bytes) {
  let value = Math.abs(bytes), unit = 0;
  while (value >= 1023.5 && unit < UNITS.length - 1) {
    value /= 1024;
    unit += 1;
  }
  const text = unit === 0 ? `${Math.round(value)} B` : `${fixed(value)} ${UNITS[unit]}`;
  return bytes < 0 ? `-${text}` : text;
}

export function rate(bytesPerSecond) {
  return `${size(bytesPerSecond)}/s`;
}

export function frequency(perSecond) {
  return `${perSecond > 0 ? fixed(perSecond) : 0}/s`;
}

export function number(value) {
  return WHOLE.format(value);
}

export function files(value) {
  return value === 1 ? "1 file" : `${number(value)} files`;
}

export function percent(share) {
  return `${(share * 100).toFixed(share > 0.9995 || share === 0 ? 0 : 1)} %`;
}

export function duration(seconds) {
  if (seconds < 0.995) return `${seconds < 0.00995 ? (seconds * 1e3).toFixed(1) : (seconds * 1e3).toFixed(0)} ms`;
  return seconds < 119.5 ? `${fixed(seconds)} s` : span(seconds);
}

export function span(seconds) {
  const [, unit, factor] = SPANS.find(([least]) => seconds >= least) ?? SPANS.at(-1);
  return `${Math.max(0, Math.floor(seconds / factor))} ${unit}`;
}

export function hours(seconds) {
  if (seconds < 3600) return `${Math.round(seconds / 60)} minutes`;
  return seconds < 48 * 3600 ? `${(seconds / 3600).toFixed(1)} hours` : `${Math.round(seconds / 86400)} days`;
}

export function dollars(amount) {
  const value = Math.abs(Number(amount));
  const text = value === 0 || value >= 1 ? value.toFixed(2) : value < 0.00005 ? "0.0001" : value.toFixed(4);
  return `${Number(amount) < 0 ? "-" : ""}${value > 0 && value < 0.00005 ? "<" : ""}$${text}`;
}

// A moment in ns since the epoch; what is not exact in it is far below what is shown.
export function clock(ns) {
  return CLOCK.format(new Date(ns / 1e6));
}

export function date(ns) {
  return DATE.format(new Date(ns / 1e6));
}

export function ago(ns, nowMs = Date.now()) {
  const seconds = nowMs / 1e3 - ns / 1e9;
  return ns === 0 ? "never" : seconds < 2 ? "just now" : `${span(seconds)} ago`;
}

export function until(ns, nowMs = Date.now()) {
  const seconds = ns / 1e9 - nowMs / 1e3;
  return ns === 0 ? "none" : seconds < 1 ? "now" : `in ${span(seconds)}`;
}

// A text as one can read it: every character is visible, none changes how the others are shown. Names of files are in
// sentences of the mount as well.
export function visible(text) {
  const seen = text.replace(LONE, (half) => `\\x${(half.charCodeAt(0) & 0xff).toString(16).padStart(2, "0")}`);
  return seen.replace(HIDDEN, (one) => {
    const code = one.codePointAt(0);
    return code < 0x80 ? `\\x${code.toString(16).padStart(2, "0")}` : `\\u{${code.toString(16)}}`;
  });
}

export function plain(value) {
  return String(value);
}

const KINDS = {size, rate, frequency, number, files, percent, duration, dollars, ago, until, clock, plain};

export function shown(value, kind) {
  return isKnown(value) ? KINDS[kind](value) : UNKNOWN;
}

// What stands at "a.b.c" in an object; undefined where there is nothing.
export function at(object, dotted) {
  return dotted.split(".").reduce((found, name) => found?.[name], object);
}
