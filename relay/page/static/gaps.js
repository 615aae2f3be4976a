// The silences of a stream as a strip of bars, the longest ones told apart by colour.

import { drawn } from "./dom.js";

const MOST = 240; // bars; of a longer stream the latest
const HEIGHT = 48;
const LONG = 0.5; // seconds that a reader notices

export function strip(gaps) {
  const first = gaps.length > MOST ? gaps.length - MOST : 0;
  const shown = gaps.slice(first);
  const top = Math.max(0.1, ...shown);
  const width = Math.max(shown.length, 60) * 3;
  const bars = shown.map((gap, place) => {
    const height = Math.max(1, (gap / top) * HEIGHT);
    const kind = first + place === 0 ? "wait" : gap >= LONG ? "long" : "gap";
    return drawn("rect", { x: place * 3, y: HEIGHT - height, width: 2, height, class: kind });
  });
  const box = { viewBox: `0 0 ${width} ${HEIGHT}`, preserveAspectRatio: "none", "aria-hidden": "true" };
  return { picture: drawn("svg", box, ...bars), top };
}
