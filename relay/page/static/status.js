// The status view: what is told becomes sentences, tiles and tables.

import { at, each, element, mark, write } from "./dom.js";
import { listen, told, want } from "./feed.js";
import { count, date, dollars, percent, seconds, short, span, time, used } from "./format.js";
import { scale, spark } from "./spark.js";
import { has, language, say } from "./words.js";

const SIGNS = { good: "✓", note: "–", warn: "!", bad: "✕" };
const OUTCOMES = { ok: "closed", client_cancelled: "none", rate_limited: "paused", client_error: "paused" };
const DAY = 86400; // seconds
const FACTS = {
  share: percent, ratio: used, p50: seconds, p95: seconds, target: seconds, others: seconds, left: span,
  failed: count, calls: count, limits: count, inflight: count, most: count, upstreams: count,
};

export function startStatus() {
  listen("now", showNow);
  listen("history", showCurves);
  listen("calls", showCalls);
  listen("latest", showLatest);
  listen("reload", showFacts);
  at("latest-shown").addEventListener("toggle", () => want("latest", at("latest-shown").open));
}

export function showStatus(all) {
  if (all.upstreams) showNow(all);
  if (all.history) showCurves(all);
  if (all.failures) showCalls(all);
  if (all.latest) showLatest(all);
}

function showNow(now) {
  write(at("version"), now.version);
  showHeadline(now);
  showTotals(now);
  each(at("upstreams"), now.upstreams, (one) => one.name, upstreamRow, (row, one) => fillUpstream(row, one, now));
  write(at("target"), say("target", { target: seconds(now.ttft_target) }));
  showKeys(now.keys);
  showEnds(now);
  showFacts(now);
}

// -- in short --

export function sentence(finding, minutes) {
  const facts = { minutes };
  for (const [name, value] of Object.entries(finding.facts ?? {})) {
    facts[name] = typeof value === "number" && FACTS[name] ? FACTS[name](value) : value;
  }
  let code = finding.about + "_" + finding.code;
  if (finding.code === "slow" && facts.others === undefined) code += "_alone";
  if (code === "users_fine" && !finding.facts.p95) code += "_plain";
  return has(code) ? say(code, facts) : finding.code;
}

function showHeadline(now) {
  const minutes = Math.round(now.window_seconds / 60);
  const lines = now.headline.map((finding) => ({ ...finding, text: sentence(finding, minutes) }));
  const groups = ["relay", "users", "upstreams", "keys"]
    .map((about) => ({ about, lines: lines.filter((line) => line.about === about) }))
    .filter((group) => group.lines.length);
  each(at("headline"), groups, (group) => group.about, () => element("div", { class: "group" }, element("h2"), element("ul")), (node, group) => {
    write(node.firstChild, say("about_" + group.about));
    each(node.lastChild, group.lines, (line) => line.code + "/" + (line.facts?.name ?? line.facts?.key ?? "") + "/" + (line.facts?.limit ?? ""), () => element("li", {}, element("span", { class: "sign" }), element("span")), (item, line) => {
      mark(item, "data-level", line.level);
      write(item.firstChild, SIGNS[line.level]);
      mark(item.firstChild, "aria-label", say("level_" + line.level));
      mark(item.firstChild, "role", "img");
      write(item.lastChild, line.text);
    });
  });
  const worst = ["bad", "warn", "note", "good"].find((level) => lines.some((line) => line.level === level));
  mark(at("headline"), "data-level", worst);
  document.title = (worst === "bad" ? "✕ " : worst === "warn" ? "! " : "") + "relay";
}

// -- totals --

function showTotals(now) {
  const totals = now.totals;
  const asked = Math.max(totals.calls - totals.refused - totals.cancelled, 0);
  const late = totals.ttft_p95 !== null && totals.ttft_p95 > now.ttft_target;
  const midnight = totals.spend_since % 86400 === 0;
  tiles(at("totals"), [
    ["failed", percent(asked ? totals.failed / asked : 0), say("of_calls", { failed: count(totals.failed), calls: count(asked) }), totals.failed ? "bad" : null],
    ["calls_per_second", short(totals.calls_per_second)],
    ["first_token", seconds(totals.ttft_p50) + " / " + seconds(totals.ttft_p95), say("first_token_hint"), late ? "warn" : null],
    ["in_flight", count(now.inflight_streams)],
    ["waiting", count(totals.waiting), null, totals.waiting ? "warn" : null],
    ["tokens_per_second", short(totals.tokens_per_second)],
    ["spend_today", dollars(totals.spend_today), midnight ? "UTC" : say("spend_since", { time: time(totals.spend_since) })],
  ]);
}

export function tiles(list, entries) {
  each(list, entries, ([name]) => name, () => element("div", {}, element("dt"), element("dd"), element("dd", { class: "hint" })), (tile, [name, value, hint, level]) => {
    write(tile.children[0], say(name));
    write(tile.children[1], value);
    write(tile.children[2], hint ?? "");
    mark(tile, "data-level", level);
    mark(tile, "data-name", name);
  });
}

// -- upstreams --

function cell(name, ...children) {
  return element("td", { "data-name": name }, ...children);
}

function upstreamRow(one) {
  return element("tr", {},
    element("th", { scope: "row" }, one.name),
    cell("state", element("span", { class: "states" })),
    cell("in_flight", element("span"), element("meter", { min: 0, class: "places" }), element("small")),
    cell("first_token", element("b"), element("small")),
    cell("last_minutes", element("span", { class: "curve" })),
    cell("errors", element("span"), element("small")),
    cell("tokens_per_second", element("span"), element("small")),
    cell("spend_today", element("span")),
  );
}

function fillUpstream(row, one, now) {
  for (const node of row.querySelectorAll("[data-name]")) mark(node, "data-label", say(node.dataset.name));
  const [, states, places, first, , errors, tokens, spend] = row.children;
  const found = Object.entries(one.states);
  each(states.firstChild, found, ([state]) => state, () => element("span", { class: "badge" }), (badge, [state, many]) => {
    mark(badge, "data-state", state);
    write(badge, say("state_" + state) + (found.length > 1 || many > 1 ? " ×" + count(many) : ""));
  });
  const most = one.max_concurrent;
  write(places.children[0], most === null ? count(one.inflight) : say("places", { inflight: count(one.inflight), most: count(most) }));
  const meter = places.children[1];
  meter.hidden = most === null;
  if (most !== null) {
    meter.max = most;
    meter.high = most * 0.9;
    meter.value = one.inflight;
    mark(meter, "aria-label", say("in_flight"));
  }
  write(places.children[2], one.waiting ? say("queued", { waiting: count(one.waiting) }) : "");
  const slow = now.headline.some((finding) => finding.code === "slow" && finding.facts.name === one.name);
  mark(first, "data-level", slow ? "warn" : null);
  write(first.children[0], seconds(one.ttft_p50) + (slow ? " · " + say("slow") : ""));
  write(first.children[1], one.ttft_p95 === null ? "" : "p95 " + seconds(one.ttft_p95));
  mark(errors, "data-level", one.failed ? "bad" : null);
  write(errors.children[0], one.failed ? percent(one.failed / one.attempts) : say("no_errors"));
  write(errors.children[1], one.failed ? say("of_calls", { failed: count(one.failed), calls: count(one.attempts) }) + " · " + one.last_error : "");
  write(tokens.children[0], short(one.tokens_per_second));
  write(tokens.children[1], one.speed === null ? "" : say("speed", { speed: short(one.speed) }));
  write(spend.firstChild, dollars(one.spend_today));
}

function showCurves({ history, upstreams, ttft_target: target }) {
  if (!upstreams) return;
  const top = scale(history.ttft, target);
  for (const row of at("upstreams").children) {
    const one = upstreams.find((each) => each.name === row.dataset.item);
    const values = history.ttft[row.dataset.item];
    if (!one || !values) continue;
    const facts = { name: one.name, p50: seconds(one.ttft_p50), p95: seconds(one.ttft_p95), failed: count(one.failed) };
    row.querySelector(".curve").replaceChildren(
      spark(values, history.failed[one.name], target, top, say("curve", facts)),
    );
  }
}

// -- keys --

function showKeys(keys) {
  const list = at("keys");
  if (!keys.length) {
    list.replaceChildren(element("li", { class: "none" }, say("no_keys")));
    return;
  }
  each(list, keys, (use) => use.key + " " + use.limit, () => element("li", {},
    element("span", { class: "who" }), element("code"), element("meter", { min: 0, max: 1 }), element("b"),
  ), (item, use) => {
    const [who, limit, meter, value] = item.children;
    write(who, use.key);
    write(limit, use.limit);
    meter.high = 0.8;
    meter.value = Math.min(use.ratio, 1);
    mark(meter, "aria-label", say("key_use", { key: use.key, limit: use.limit, ratio: used(use.ratio) }));
    write(value, used(use.ratio));
    mark(item, "data-level", use.ratio >= 1 ? "bad" : use.ratio >= 0.8 ? "warn" : null);
  });
}

function showEnds({ expiring, expired, keys_expiring: soon, keys_expired: past, at: now }) {
  at("ending").hidden = !expiring.length && !expired.length;
  const lines = [
    ...expiring.map((end) => [end.key, say("expires", { key: end.key, left: span(end.at - now), date: date(end.at) }), end.at - now < 7 * DAY ? "warn" : "note"]),
    ...expired.map((end) => [end.key, say("expired", { key: end.key, date: date(end.at) }), now - end.at < DAY ? "warn" : "note"]),
  ];
  const more = soon + past - lines.length;
  if (more > 0) lines.push(["", say("ending_more", { keys: count(more) }), "note"]);
  each(at("ends"), lines, ([key]) => key, () => element("li"), (item, [, text, level]) => {
    write(item, text);
    mark(item, "data-level", level);
  });
}

// -- failures --

function showCalls({ failures, refusals }) {
  fillCalls(at("failures"), failures);
  fillCalls(at("refusals"), refusals);
  write(at("refusals-count"), refusals.length ? count(refusals.length) : "");
  at("refused").hidden = !refusals.length;
}

function showLatest({ latest }) {
  at("no-calls").hidden = latest.length > 0;
  // A call that has ended stays as it is, in the language of its row: what a reader has selected there stays, too.
  each(at("latest"), latest, (call) => language() + call.request_id, latestRow, () => {});
}

function latestRow(call) {
  const state = OUTCOMES[call.outcome] ?? "open";
  return element("tr", {},
    labelled("time", time(call.at)),
    labelled("what", element("span", { class: "badge", "data-state": state }, say("outcome_" + call.outcome)), " ", element("code", {}, String(call.code))),
    labelled("key", call.key ?? "–"),
    labelled("model", call.model ?? "–"),
    labelled("upstream", call.upstream),
    labelled("first_token", seconds(call.ttft)),
    labelled("tokens_per_second", call.speed === undefined ? "–" : short(call.speed)),
    labelled("request_id", element("code", { class: "id" }, call.request_id)),
  );
}

function fillCalls(body, calls) {
  if (!calls.length) {
    body.replaceChildren(element("tr", {}, element("td", { colspan: 6, class: "none" }, say("no_failures"))));
    return;
  }
  body.replaceChildren(...calls.map((call) => element("tr", {},
    labelled("time", time(call.at)),
    labelled("what", element("span", { class: "badge", "data-state": "open" }, say("outcome_" + call.outcome)), " ",
      element("code", {}, [call.code, call.error, call.cause, call.reason].filter((each, place, all) => each && all.indexOf(each) === place).join(" "))),
    labelled("key", call.key ?? "–"),
    labelled("model", call.model ?? "–"),
    labelled("attempts", ...attempts(call.tries ?? [])),
    labelled("request_id", element("code", { class: "id" }, call.request_id)),
  )));
}

function labelled(name, ...children) {
  return element("td", { "data-name": name, "data-label": say(name) }, ...children);
}

export function attempts(tries) {
  if (!tries.length) return ["–"];
  return [element("ol", { class: "tries" }, ...tries.map(([upstream, result, ms]) => element("li", {},
    element("b", {}, upstream), " ", element("code", {}, result), " ", seconds(ms / 1000))))];
}

// -- the rest --

function showFacts(now) {
  if (!now.upstreams) return;
  const entries = [
    ["version", now.version],
    ["up", span(now.uptime_seconds)],
    ["configuration", now.config_path + " · " + now.config_digest.slice(0, 12)],
  ];
  // A reload that went well says itself when that was.
  if (!now.reload?.successful) entries.push(["reloaded", time(now.reloaded_at)]);
  if (now.reload) entries.push(["last_reload", reloaded(now.reload)]);
  each(at("facts"), entries, ([name]) => name, () => element("div", {}, element("dt"), element("dd")), (node, [name, value]) => {
    write(node.children[0], say(name));
    write(node.children[1], value);
  });
}

function reloaded({ at: when, successful, changes = {}, faults = [], more_faults: more = 0 }) {
  if (!successful) {
    if (more) faults = [...faults, say("faults_more", { faults: count(more) })];
    return say("reload_failed", { time: time(when), faults: faults.join("; ") });
  }
  const changed = Object.entries(changes).map(([section, names]) => section + " " + names.join(" "));
  return say(changed.length ? "reload_changed" : "reload_same", { time: time(when), changes: changed.join(" · ") });
}

listen("now", () => {
  // The first curves come before the rows that they belong to.
  if (told.history && at("upstreams").querySelector(".curve:empty")) showCurves(told);
});
