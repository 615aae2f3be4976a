// Shows status.json, every two seconds while the page is seen. Text only: nothing from the server becomes markup.
"use strict";

const EVERY = 2000; // milliseconds

const at = (id) => document.getElementById(id);

function element(name, text) {
  const made = document.createElement(name);
  made.textContent = text;
  return made;
}

function span(seconds) {
  const parts = [[86400, "d"], [3600, "h"], [60, "m"], [1, "s"]];
  let rest = Math.floor(seconds);
  const shown = [];
  for (const [size, unit] of parts) {
    const count = Math.floor(rest / size);
    rest -= count * size;
    if (count > 0) shown.push(count + unit);
  }
  return shown.slice(0, 2).join(" ") || "0s";
}

function facts(status) {
  return [
    ["Up", span(status.uptime_seconds)],
    ["Streams in flight", String(status.inflight_streams)],
    ["Configuration", status.config_path + " " + status.config_digest.slice(0, 12)],
  ];
}

function upstream(one) {
  const row = document.createElement("tr");
  const states = Object.entries(one.states).map(([state, count]) => count + " " + state);
  const most = one.max_concurrent === null ? "" : " of " + one.max_concurrent;
  for (const text of [one.name, states.join(", "), one.inflight + most]) {
    row.append(element("td", text));
  }
  return row;
}

function show(status) {
  at("version").textContent = status.version;
  at("state").textContent = status.ready
    ? status.degraded.length ? "ready, degraded: " + status.degraded.join(", ") : "ready"
    : "not ready: " + status.reason;
  at("facts").replaceChildren(
    ...facts(status).flatMap(([name, value]) => [element("dt", name), element("dd", value)]),
  );
  at("upstreams").replaceChildren(...status.upstreams.map(upstream));
}

async function refresh() {
  if (!document.hidden) {
    try {
      const answer = await fetch("status.json");
      if (!answer.ok) throw new Error("status " + answer.status);
      show(await answer.json());
    } catch (error) {
      at("state").textContent = "no answer (" + error.message + ")";
    }
  }
  setTimeout(refresh, EVERY);
}

refresh();
