// Puts the page together: which view, which language, which colours. Only the last two are remembered.

import { at, mark, write } from "./dom.js";
import { showFeed, start, told } from "./feed.js";
import { showPlayground, startPlayground } from "./playground.js";
import { showStatus, startStatus } from "./status.js";
import { other, say, speak } from "./words.js";

const THEMES = ["auto", "light", "dark"];

function remembered(name, fallback) {
  try {
    return localStorage.getItem("relay." + name) ?? fallback;
  } catch {
    return fallback; // storage is forbidden: the choice lasts as long as the page
  }
}

function remember(name, value) {
  try {
    localStorage.setItem("relay." + name, value);
  } catch {
    // as above
  }
}

let theme = remembered("theme", "auto");

function paint() {
  mark(document.documentElement, "data-theme", theme);
  const name = say("theme_" + theme);
  write(at("theme"), name);
  mark(at("theme"), "aria-label", say("theme", { name }));
}

function translate(wanted) {
  speak(wanted);
  write(at("language"), wanted === "zh" ? "English" : "中文");
  mark(at("language"), "lang", other());
  paint();
  showFeed();
  showStatus(told);
  showPlayground();
}

function view() {
  const wanted = location.hash === "#playground" ? "playground" : "status";
  for (const name of ["status", "playground"]) {
    at(name).hidden = name !== wanted;
    mark(at("to-" + name), "aria-current", name === wanted ? "page" : null);
  }
}

at("language").addEventListener("click", () => {
  const wanted = other();
  remember("language", wanted);
  translate(wanted);
});
at("theme").addEventListener("click", () => {
  theme = THEMES[(THEMES.indexOf(theme) + 1) % THEMES.length];
  remember("theme", theme);
  paint();
});
document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault(); // the fragment says which view is open
  at("main").focus();
});
addEventListener("hashchange", view);

const speaks = navigator.languages?.find((name) => /^(zh|en)\b/.test(name)) ?? "en";
startStatus();
startPlayground();
translate(remembered("language", speaks.slice(0, 2)));
view();
start();
