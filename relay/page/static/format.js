// Numbers as people of a language read them.

import { language, say } from "./words.js";

const number = (value, options) => new Intl.NumberFormat(language(), options).format(value);

export const count = (value) => number(value, { maximumFractionDigits: 0 });

export const short = (value) => number(value, { maximumFractionDigits: value < 10 ? 1 : 0 });

export function percent(share) {
  const digits = share > 0 && share < 0.1 ? 1 : 0;
  return number(share, { style: "percent", maximumFractionDigits: digits });
}

// A limit is used up when it is, and not when it nearly is.
export const used = (ratio) => percent(ratio < 1 ? Math.min(ratio, 0.99) : ratio);

export function seconds(value) {
  if (value === null || value === undefined) return "–";
  if (value < 0.995) return number(value * 1000, { maximumFractionDigits: value < 0.01 ? 1 : 0 }) + " ms";
  return number(value, { maximumFractionDigits: value < 10 ? 1 : 0 }) + " s";
}

export function dollars(value) {
  const digits = value === 0 || value >= 1 ? 2 : value < 0.01 ? 6 : 4;
  return "$" + number(value, { maximumFractionDigits: digits, minimumFractionDigits: 2 });
}

export function time(unix) {
  return new Date(unix * 1000).toLocaleTimeString(language(), { hour12: false });
}

export function date(unix) {
  return new Date(unix * 1000).toLocaleString(language(), { dateStyle: "medium", timeStyle: "short" });
}

export function span(total) {
  let rest = Math.floor(total);
  const shown = [];
  for (const [size, unit] of [[86400, "day"], [3600, "hour"], [60, "minute"], [1, "second"]]) {
    const many = Math.floor(rest / size);
    rest -= many * size;
    if (many > 0) shown.push(number(many, { style: "unit", unit, unitDisplay: "short" }));
  }
  return shown.slice(0, 2).join(" ") || say("now");
}
