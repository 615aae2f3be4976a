// A curve of some minutes, drawn: first tokens as a line, failures as marks at the foot, the target dashed.

import { drawn } from "./dom.js";

const WIDTH = 180;
const HEIGHT = 36;
const FOOT = 5; // for the marks

// All curves of a table have one scale (`top`), so that the slow one looks slow.
export function spark(values, failed, target, top, label) {
  const step = WIDTH / Math.max(values.length - 1, 1);
  const y = (value) => HEIGHT - FOOT - (Math.min(value, top) / top) * (HEIGHT - FOOT - 2);
  const parts = [
    drawn("line", { x1: 0, x2: WIDTH, y1: y(target), y2: y(target), class: "target" }),
  ];
  for (const run of runs(values)) {
    const points = run.map(([place, value]) => `${(place * step).toFixed(1)},${y(value).toFixed(1)}`);
    const late = run.some(([, value]) => value > target) ? "line late" : "line";
    if (run.length > 1) parts.push(drawn("polyline", { points: points.join(" "), class: late }));
    const [place, value] = run[run.length - 1];
    parts.push(drawn("circle", { cx: place * step, cy: y(value), r: 1.6, class: late + " dot" }));
  }
  failed.forEach((count, place) => {
    if (count > 0) {
      parts.push(drawn("rect", { x: place * step - 1.2, y: HEIGHT - 4, width: 2.4, height: 4, class: "mark" }));
    }
  });
  const box = { viewBox: `-2 0 ${WIDTH + 4} ${HEIGHT}`, class: "spark", role: "img", "aria-label": label };
  return drawn("svg", box, ...parts);
}

// Pieces without holes of more than two steps: a quiet upstream has a value now and then.
function runs(values) {
  const found = [];
  let last = -9;
  values.forEach((value, place) => {
    if (value === null) return;
    if (place - last > 3) found.push([]);
    found[found.length - 1].push([place, value]);
    last = place;
  });
  return found;
}

export function scale(series, target) {
  const most = Math.max(0, ...Object.values(series).flat().filter((value) => value !== null));
  return Math.max(target * 1.6, most * 1.1, 0.1);
}
