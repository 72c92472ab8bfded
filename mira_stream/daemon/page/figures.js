// The figures of the whole daemon, two of them with their last ten minutes.

import { draw, make, mark, say } from "./dom.js";
import { brief, bytes, count, duration, rate, share } from "./format.js";

const WIDTH = 240;
const HEIGHT = 40;
let cards = null;

/** Records, tokens, what waits, what was not scored. */
export function showFigures(root, status) {
  cards ??= makeCards(root);
  const { rates, history } = status;
  fill(cards.records, rate(rates.published), "records/s", `${count(status.rows)} rows published in ${count(status.segments)} segments`);
  fill(cards.tokens, rate(rates.prompt_tokens + rates.completion_tokens), "tokens/s", `${brief(status.prompt_tokens)} of prompts, ${brief(status.completion_tokens)} of replies`);
  drawLine(cards.records.line, history.records_per_second, "records a second");
  drawLine(cards.tokens.line, history.tokens_per_second, "tokens a second");
  const listed = status.listed_seconds_ago === null ? "not listed yet" : `listed ${duration(status.listed_seconds_ago)} ago`;
  fill(cards.waiting, brief(waiting(status)), "records under way", `${count(status.objects_open)} ${status.objects_open === 1 ? "object" : "objects"} open, ${listed}`);
  say(cards.waiting.more, `${count(status.backlog_rows)} rows (${bytes(status.backlog_bytes)}) wait to be published`);
  const dead = status.outcomes.dead_lettered ?? 0;
  const ended = Object.values(status.outcomes).reduce((one, other) => one + other, 0);
  fill(cards.dead, count(dead), dead === 1 ? "dead letter" : "dead letters", `${share(dead, ended)} of what has ended`);
  say(cards.dead.more, `${share(rates.dead_lettered, rates.published)} in the last minute, ${count(status.outcomes.skipped ?? 0)} skipped`);
}

const waiting = (status) => Object.values(status.in_pipeline).reduce((one, other) => one + other, 0);

function makeCards(root) {
  const made = { records: card(true), tokens: card(true), waiting: card(false), dead: card(false) };
  root.append(...Object.values(made).map((one) => one.node));
  return made;
}

function card(withLine) {
  const parts = { value: make("span", "value"), unit: make("span", "unit"), note: make("p", "note"), more: make("p", "note") };
  const node = make("div", "card figure", make("p", "number", parts.value, " ", parts.unit), parts.note);
  if (withLine) {
    parts.line = makeLine();
    node.append(parts.line.node);
  } else {
    node.append(parts.more);
  }
  return { node, ...parts };
}

function fill(made, value, unit, note) {
  say(made.value, value);
  say(made.unit, unit);
  say(made.note, note);
}

function makeLine() {
  const area = draw("path", { class: "area" });
  const line = draw("path", { class: "line" });
  const node = draw("svg", { class: "spark", viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img" }, area, line);
  const legend = make("p", "spark-legend", make("span", "", "−10 min"), make("span", "peak"), make("span", "", "now"));
  return { node: make("div", "spark-box", node, legend), svg: node, area, line, peak: legend.children[1] };
}

/** The newest value stands at the right edge; what is not known yet is left empty. */
function drawLine(made, values, what) {
  const top = Math.max(...values, 0);
  const step = WIDTH / 119;
  const points = values.map((value, at) => {
    const x = WIDTH - (values.length - 1 - at) * step;
    return `${x.toFixed(1)},${(HEIGHT - 1 - (top ? (value / top) * (HEIGHT - 4) : 0)).toFixed(1)}`;
  });
  mark(made.line, "d", points.length > 1 ? `M${points.join("L")}` : "");
  const first = points.length ? points[0].split(",")[0] : 0;
  mark(made.area, "d", points.length > 1 ? `M${first},${HEIGHT}L${points.join("L")}L${WIDTH},${HEIGHT}Z` : "");
  mark(made.svg, "aria-label", `${what} over the last ten minutes, at most ${rate(top)}`);
  say(made.peak, top ? `peak ${rate(top)}/s` : "");
}
