// What the relay tells: server-sent events, each a part of the whole, once a second. One stream for each page that is
// seen: a hidden one lets go, since a browser opens six connections to a host at most.

import { at, mark, write } from "./dom.js";
import { say } from "./words.js";

const AGAIN = 3000; // milliseconds, where the browser does not come again by itself
const SILENT = 5000; // without news for so long it is no longer live

export const told = {};
const listeners = [];
const wanted = new Set(); // what is told only to those who ask
let source = null;
let silence = 0;
let state = "connecting";

export function listen(event, act) {
  listeners.push([event, act]);
}

function show(now) {
  state = now;
  mark(at("feed"), "data-state", now);
  write(at("feed"), say("feed_" + now));
}

export const showFeed = () => show(state);

function heard(event, data) {
  Object.assign(told, JSON.parse(data));
  show("live");
  clearTimeout(silence);
  silence = setTimeout(() => show("silent"), SILENT);
  for (const [wanted, act] of listeners) if (wanted === event) act(told);
}

export function open() {
  if (source !== null) return;
  source = new EventSource(wanted.size ? "events?" + [...wanted].join("&") : "events");
  for (const name of ["now", "history", "calls", "served", "latest", "reload"]) {
    source.addEventListener(name, (event) => heard(name, event.data));
  }
  source.onerror = () => {
    show("silent");
    if (source !== null && source.readyState === EventSource.CLOSED) {
      close();
      setTimeout(open, AGAIN);
    }
  };
}

function close() {
  source?.close();
  source = null;
}

export function want(name, on) {
  if (on === wanted.has(name)) return;
  if (on) wanted.add(name);
  else wanted.delete(name);
  if (source === null) return; // hidden: it asks when it is seen again
  close();
  open();
}

export function start() {
  document.addEventListener("visibilitychange", () => (document.hidden ? close() : open()));
  open();
}
