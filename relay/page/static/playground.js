// The playground: asks the data port with a key that lives in its field and nowhere else.

import { at, element, mark, write } from "./dom.js";
import { listen, told } from "./feed.js";
import { count, dollars, seconds, short } from "./format.js";
import { strip } from "./gaps.js";
import { program } from "./snippets.js";
import { attempts, tiles } from "./status.js";
import { Call } from "./stream.js";
import { say } from "./words.js";

const COPIED = 1500; // milliseconds

let call = null;
let chosen = "curl";
let said = () => "";
let prompted = "";
let asking = 0;
let drawing = false;
let calledWith = ""; // the key of the latest call

const beside = () => `${location.protocol}//${location.hostname}:${told.data_port}`;
const origin = () => told.public_url ?? beside();
// Where this page may call: its policy came with it, and what is told later changes no policy.
const allowed = () => document.querySelector("meta[name=public-url]").content || beside();
const key = () => at("key").value.trim();

function tell(key, facts) {
  said = () => say(key, facts);
  write(at("said"), said());
}

// Why a call would be blocked by the browser, which tells nobody but its console; null if it would not.
function blocked() {
  const to = new URL(origin());
  const here = /^(localhost|127\..*|\[::1\])$/.test(to.hostname);
  if (location.protocol === "https:" && to.protocol === "http:" && !here) return "said_mixed";
  return origin() === allowed() ? null : "said_moved";
}

// A page behind TLS on a port of a relay that speaks none: somebody stands between, and nobody has said where else.
const unreachable = () =>
  location.protocol === "https:" && !told.public_url ? "said_unreachable_behind" : "said_unreachable";

function body() {
  const messages = [{ role: "user", content: at("prompt").value }];
  const system = at("system").value.trim();
  if (system) messages.unshift({ role: "system", content: system });
  const made = { model: at("model").value, messages };
  if (at("temperature").value !== "") made.temperature = Number(at("temperature").value);
  if (at("max-tokens").value !== "") made.max_tokens = Number(at("max-tokens").value);
  return { ...made, stream: true, stream_options: { include_usage: true } };
}

// -- which models --

async function findModels() {
  const asked = ++asking; // a later key overtakes an earlier one
  const list = at("model");
  list.replaceChildren();
  list.disabled = true;
  refresh();
  if (!key() || !told.data_port) return;
  if (blocked()) return tell(blocked(), { origin: origin() });
  const answerIs = (...words) => calledWith !== key() && tell(...words); // else the call has the word
  try {
    const answer = await fetch(origin() + "/v1/models", {
      headers: { authorization: "Bearer " + key() },
      credentials: "omit",
      cache: "no-store",
    });
    const found = await answer.json();
    if (asked !== asking) return;
    if (!answer.ok) return answerIs("said_error", { status: answer.status, message: found.error.message });
    list.replaceChildren(...found.data.map((model) => element("option", { value: model.id }, model.id)));
    list.disabled = !found.data.length;
    answerIs(found.data.length ? "said_models" : "said_no_models", { models: count(found.data.length) });
  } catch {
    if (asked === asking) answerIs(unreachable(), { origin: origin() });
  }
  refresh();
}

// -- the call --

async function send() {
  if (at("send").disabled) return;
  const mine = new Call(origin(), key(), body(), progress);
  call = mine;
  calledWith = key();
  write(at("answer"), "");
  at("raw").replaceChildren();
  tell("said_asking");
  refresh();
  await mine.run();
  if (call === mine) refresh();
}

function stop() {
  call?.stop();
}

function progress(which) {
  if (which !== call) return;
  if (which.end !== null) {
    const word = which.end === "unreachable" ? unreachable() : "said_" + which.end;
    tell(word, which.error ?? { origin: which.origin });
  } else if (which.first !== null) {
    tell("said_streaming");
  }
  if (!drawing) {
    drawing = true;
    requestAnimationFrame(draw);
  }
}

function draw() {
  drawing = false;
  if (call === null) return;
  const box = at("answer");
  const atEnd = box.scrollTop + box.clientHeight >= box.scrollHeight - 8;
  write(box, call.text);
  if (atEnd) box.scrollTop = box.scrollHeight;
  showRaw();
  const { picture, top } = strip(call.gaps);
  at("gaps").replaceChildren(picture);
  write(at("gaps-hint"), call.gaps.length ? say("gaps_hint", { top: seconds(top) }) : "");
  measure();
}

// Each event is drawn once, and only where somebody looks.
function showRaw() {
  if (!at("raw-shown").open) return;
  const box = at("raw");
  const first = call.raw[0]?.number ?? 0;
  const place = (node) => Number(node.dataset.event);
  while (box.firstElementChild && place(box.firstElementChild) < first) box.firstElementChild.remove();
  const next = box.lastElementChild ? place(box.lastElementChild) + 1 : first;
  const atEnd = box.scrollTop + box.clientHeight >= box.scrollHeight - 8;
  for (const { number, at: when, text } of call.raw) {
    if (number < next) continue;
    box.append(element("span", { class: "event", "data-event": number }, element("span", { class: "when" }, seconds(when)), text + "\n"));
  }
  if (atEnd) box.scrollTop = box.scrollHeight;
  write(at("raw-hint"), say(first ? "raw_dropped" : "raw_hint", { events: count(first) }));
}

function measure() {
  const usage = call.usage;
  const served = (told.served ?? []).find((one) => one.request_id === call.requestId);
  tiles(at("measures"), [
    ["first_token", seconds(call.ttft)],
    ["tokens_per_second", call.rate === null ? "–" : short(call.rate)],
    ["tokens", usage ? count(usage.prompt_tokens) + " / " + count(usage.completion_tokens) : "–", say("tokens_hint")],
    ["longest_gap", seconds(call.longestGap)],
    ["duration", seconds(call.duration)],
    ["served_by", served && served.upstream !== "none" ? served.upstream : "–"],
    ["overhead", served ? seconds(served.overhead) : "–"],
    ["cost", served ? dollars(served.cost_usd ?? 0) : "–"],
    ["request_id", call.requestId ?? "–"],
  ]);
  const tile = at("measures").querySelector("[data-name=served_by]");
  const tries = served && served.tries?.length > 1 ? attempts(served.tries) : [];
  tile.lastChild.replaceChildren(...tries);
}

// -- the same call elsewhere --

function showProgram() {
  const shown = at("with-key").checked ? key() : "";
  write(at("program"), program(chosen, origin(), shown, { ...body(), model: at("model").value || "MODEL" }));
  for (const button of document.querySelectorAll("[data-program]")) {
    mark(button, "aria-pressed", button.dataset.program === chosen);
  }
}

async function copy() {
  const text = at("program").textContent;
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    // Without TLS a browser gives its clipboard to loopback only: the text is selected instead.
    getSelection().selectAllChildren(at("program"));
    if (!document.execCommand("copy")) return;
  }
  write(at("copy"), say("copied"));
  setTimeout(() => write(at("copy"), say("copy")), COPIED);
}

// -- together --

function refresh() {
  const running = call !== null && call.end === null;
  at("send").disabled = running || at("model").disabled || !at("prompt").value.trim();
  at("stop").disabled = !running;
  mark(at("answer"), "aria-busy", running);
  showProgram();
}

export function showPlayground() {
  // A prompt that nobody has changed is the language's own.
  if (at("prompt").value === prompted) at("prompt").value = prompted = say("prompt_text");
  write(at("to"), told.data_port ? say("calls_go_to", { origin: origin() }) : "");
  write(at("said"), said());
  if (call !== null) draw();
  refresh();
}

export function startPlayground() {
  let wait = 0;
  at("key").addEventListener("input", () => {
    clearTimeout(wait);
    wait = setTimeout(findModels, 300); // a pasted key comes whole, a typed one in pieces
    refresh();
  });
  at("send").addEventListener("click", send);
  at("stop").addEventListener("click", stop);
  at("playground").addEventListener("input", refresh);
  at("playground").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) send();
    else if (event.key === "Escape") stop();
  });
  for (const button of document.querySelectorAll("[data-program]")) {
    button.addEventListener("click", () => {
      chosen = button.dataset.program;
      showProgram();
    });
  }
  at("copy").addEventListener("click", copy);
  at("raw-shown").addEventListener("toggle", () => call !== null && showRaw());
  listen("served", () => call !== null && measure());
  let known = "";
  listen("now", () => {
    if (!told.data_port || origin() === known) return;
    known = origin();
    showPlayground();
    findModels();
  });
}
