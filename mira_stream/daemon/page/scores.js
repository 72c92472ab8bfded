// How records were scored: a small histogram for each slot, the overall score, and what is recommended.

import { draw, keep, make, mark, say } from "./dom.js";
import { count, share } from "./format.js";

const POINTS = 11;
const WIDTH = 110;
const HEIGHT = 36;
const MIX = ["keep", "downsample", "drop"];
let chosen = null;
let shown = null;
let latest = null;

/** Fill the list of what can be chosen, and draw what is. */
export function showScores(chooser, root, status) {
  latest = status;
  shown ??= makeScores(root, chooser);
  const choices = choicesOf(status);
  if (!choices.some((one) => one.key === chosen)) chosen = choices[0]?.key ?? null;
  keep(chooser, choices, (one) => one.key, makeChoice, (made, one) => say(made.node, one.title));
  chooser.parentElement.hidden = choices.length === 0;
  if (chooser.value !== chosen && chosen !== null) chooser.value = chosen;
  fillScores(choices.find((one) => one.key === chosen) ?? emptyOf(status));
}

function makeChoice(one) {
  const node = make("option");
  node.value = one.key;
  return { node };
}

/** Each group as a whole, then each of its sources where it has several. */
function choicesOf(status) {
  const groups = [...new Set(status.scores.map((one) => one.group))];
  return groups.flatMap((group) => {
    const sources = status.scores.filter((one) => one.group === group);
    const whole = { key: group, title: `${group}, all sources`, group, parts: sources };
    return [whole, ...sources.map((one) => ({ key: `${group}\n${one.source}`, title: `${group}, ${one.source}`, group, parts: [one] }))];
  });
}

const emptyOf = (status) => ({ group: status.pools[0]?.group, parts: [] });

function added(parts, pick, length) {
  const counts = new Array(length).fill(0);
  for (const part of parts) pick(part)?.forEach((number, at) => (counts[at] += number));
  return counts;
}

function makeScores(root, chooser) {
  chooser.addEventListener("change", () => {
    chosen = chooser.value;
    showScores(chooser, root, latest);
  });
  const made = { none: make("p", "note empty", "No reply was complete yet."), whole: make("div", "whole"), slots: make("ul", "slots") };
  made.overall = makeHistogram("overall", "Overall", "0", "100");
  made.mix = makeMix();
  made.replies = make("p", "note");
  made.whole.append(made.overall.node, made.mix.node);
  root.append(made.none, made.whole, made.slots, made.replies);
  return made;
}

function fillScores(choice) {
  const replies = choice.parts.reduce((total, part) => total + part.replies, 0);
  shown.none.hidden = replies > 0;
  shown.whole.hidden = shown.slots.hidden = shown.replies.hidden = replies === 0;
  if (!replies) return;
  const names = latest.pools.find((pool) => pool.group === choice.group)?.slots ?? {};
  const slots = Object.keys(choice.parts[0].slots).map((slot) => ({ slot, name: names[slot] ?? "", counts: added(choice.parts, (part) => part.slots[slot], POINTS) }));
  keep(shown.slots, slots, (one) => one.slot, (one) => makeHistogram(one.slot, one.name, "0", "10", "li"), (made, one) => fillHistogram(made, one.counts, 1));
  fillHistogram(shown.overall, added(choice.parts, (part) => part.overall, POINTS), 10);
  fillMix(shown.mix, choice.parts, replies);
  say(shown.replies, `${count(replies)} complete replies since the start. A bar is one point: the first is 0, the last is above 9 up to 10.`);
}

function makeHistogram(slot, name, least, most, tag = "div") {
  const bars = Array.from({ length: POINTS }, (_, at) => draw("rect", { x: at * 10 + 0.75, width: 8.5, y: HEIGHT, height: 0, class: "hist-bar" }));
  const svg = draw("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img", class: "hist" }, ...bars);
  const mean = make("span", "mean");
  const label = make("span", "slot-name", name);
  label.title = name;
  const title = make("p", "slot-head", make("strong", "", tag === "li" ? slot : name), mean);
  const axis = make("p", "axis", make("span", "", least), make("span", "", most));
  axis.setAttribute("aria-hidden", "true");
  const node = make(tag, "slot", title, svg, axis);
  if (tag === "li") title.after(label);
  return { node, svg, bars, mean, says: tag === "li" ? `${slot} ${name}` : name };
}

function fillHistogram(made, counts, scale) {
  const top = Math.max(...counts, 1);
  const total = counts.reduce((one, other) => one + other, 0);
  counts.forEach((number, at) => {
    const height = number ? Math.max(1.5, (number / top) * (HEIGHT - 1)) : 0.6;
    mark(made.bars[at], "height", height.toFixed(2));
    mark(made.bars[at], "y", (HEIGHT - height).toFixed(2));
    mark(made.bars[at], "data-none", number ? null : "");
  });
  const middle = medianOf(counts, total) * scale;
  say(made.mean, total ? `median ${middle}` : "");
  mark(made.svg, "aria-label", `${made.says}: ${count(total)} scores, median ${middle}; from 0 up: ${counts.join(", ")}`);
}

function medianOf(counts, total) {
  let below = 0;
  for (let at = 0; at < counts.length; at += 1) {
    below += counts[at];
    if (2 * below >= total) return at;
  }
  return 0;
}

function makeMix() {
  const made = { bar: make("div", "parts"), legend: make("ul", "terms") };
  made.bar.setAttribute("aria-hidden", "true");
  made.node = make("div", "slot mix", make("p", "slot-head", make("strong", "", "Recommendation")), made.bar, made.legend);
  return made;
}

function fillMix(made, parts, replies) {
  const mix = MIX.map((name) => [name, parts.reduce((total, part) => total + (part.recommendations[name] ?? 0), 0)]);
  keep(made.bar, mix, ([name]) => name, ([name]) => ({ node: make("span", `part mix-${name}`) }), (one, [, number]) => {
    one.node.style.setProperty("flex-grow", number);
    mark(one.node, "data-none", number ? null : "");
  });
  keep(made.legend, mix, ([name]) => name, makeMixTerm, (one, [, number]) => {
    say(one.number, share(number, replies));
    say(one.count, ` (${count(number)})`);
  });
}

function makeMixTerm([name]) {
  const number = make("strong");
  const counted = make("span", "note");
  return { node: make("li", "", make("span", `swatch mix-${name}`), number, ` ${name}`, counted), number, count: counted };
}
