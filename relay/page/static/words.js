// The words of the page, and which language they are in.

import { en } from "./words-en.js";
import { zh } from "./words-zh.js";

const LANGUAGES = { en, zh };
let chosen = "en";

export const language = () => (chosen === "zh" ? "zh-CN" : "en-GB");
export const other = () => (chosen === "zh" ? "en" : "zh");

export function has(key) {
  return key in LANGUAGES[chosen];
}

// `{name}` in the words is the fact of that name, as text.
export function say(key, facts = {}) {
  const words = LANGUAGES[chosen][key] ?? key;
  return words.replace(/\{(\w+)\}/g, (whole, name) => (name in facts ? String(facts[name]) : whole));
}

export function speak(wanted) {
  chosen = wanted in LANGUAGES ? wanted : "en";
  document.documentElement.lang = language();
  for (const node of document.querySelectorAll("[data-say]")) node.textContent = say(node.dataset.say);
  for (const node of document.querySelectorAll("[data-say-label]")) {
    node.setAttribute("aria-label", say(node.dataset.sayLabel));
  }
}
