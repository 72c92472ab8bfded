// The pipeline from the listing to the published row, and the account of every record that was read.

import { bar, keep, make, mark, say } from "./dom.js";
import { brief, count, rate, sum } from "./format.js";

/** Draw the stages, what limits them, and the identity. */
export function showFlow(flow, identity, status) {
  keep(flow, stages(status), (stage) => stage.key, makeStage, fillStage);
  showIdentity(identity, status);
}

const total = (pools, name) => pools.reduce((found, pool) => found + pool[name], 0);

function stages(status) {
  const { rates, pools, in_pipeline: under, diagnosis } = status;
  const replicas = pools.flatMap((pool) => pool.replicas);
  const list = [
    ["listed", "Listed", status.objects_discovered, "objects", `${rate(60 * rates.discovered)}/min`, `${count(status.objects_open)} open`, null],
    ["read", "Read", status.read, "records", `${rate(rates.read)}/s`, "since the start", null],
    ["preparing", "Preparing", under.preparing, "records", "", "rendered, counted, cut", [total(pools, "preparing_records"), total(pools, "preparing_records_limit")]],
    ["window", "Window", under.window, "records", "", `of ${count(total(pools, "window_records_limit"))} places`, [under.window, total(pools, "window_records_limit")]],
    ["in_flight", "In flight", under.in_flight, "records", `${rate(rates.answered)}/s`, `${brief(total(replicas, "reserved_tokens"))} tokens`, [total(replicas, "reserved_tokens"), total(replicas, "reserved_tokens_limit")]],
    ["received", "Received", under.receiving + under.received, "records", `${rate(rates.received)}/s`, "durable, to be published", [status.backlog_rows, status.backlog_rows_limit]],
    ["published", "Published", sum(status.outcomes), "records", `${rate(rates.published)}/s`, `${count(status.segments)} segments`, null],
  ];
  return list.map(([key, name, number, unit, speed, note, fill]) => ({ key, name, number, unit, speed, note, fill, limits: diagnosis.stage === key }));
}

function makeStage(stage) {
  const parts = { number: make("span", "value"), unit: make("span", "unit"), speed: make("span", "speed"), note: make("span", "note"), fill: bar() };
  const name = make("h3", "", stage.name);
  const node = make("li", "stage", name, make("p", "number", parts.number, " ", parts.unit), parts.speed, parts.fill.node, parts.note);
  return { node, ...parts };
}

function fillStage(made, stage) {
  say(made.number, brief(stage.number));
  say(made.unit, stage.unit);
  say(made.speed, stage.speed);
  say(made.note, stage.note);
  mark(made.node, "data-limits", stage.limits ? "" : null);
  mark(made.fill.node, "data-empty", stage.fill === null ? "" : null);
  if (stage.fill) made.fill.set(stage.fill[0] / stage.fill[1]);
}

let account = null;

function showIdentity(root, status) {
  account ??= makeIdentity(root);
  const under = sum(status.in_pipeline);
  const parts = [
    ["scored", "scored", status.outcomes.scored ?? 0],
    ["dead", "dead-lettered", status.outcomes.dead_lettered ?? 0],
    ["skipped", "skipped", status.outcomes.skipped ?? 0],
    ["under", "in the pipeline", under],
  ];
  const accounted = parts.reduce((found, [, , number]) => found + number, 0);
  say(account.read, count(status.read));
  keep(account.bar, parts, ([key]) => key, ([key]) => ({ node: make("span", `part part-${key}`) }), (made, [, , number]) => {
    made.node.style.setProperty("flex-grow", number);
    mark(made.node, "data-none", number ? null : "");
  });
  keep(account.legend, parts, ([key]) => key, makeTerm, (made, [, , number]) => say(made.number, count(number)));
  const holds = accounted === status.read;
  mark(account.sum, "data-health", holds ? "well" : "wrong");
  say(account.sum, holds ? "✓ adds up" : `✕ ${count(Math.abs(status.read - accounted))} not accounted for`);
}

function makeIdentity(root) {
  const read = make("strong", "");
  const made = { read, bar: make("div", "parts"), legend: make("ul", "terms"), sum: make("span", "adds-up") };
  made.bar.setAttribute("aria-hidden", "true");
  root.append(make("p", "identity-head", make("span", "", "Records read: ", read, " ="), made.sum), made.bar, made.legend);
  return made;
}

function makeTerm([key, name]) {
  const number = make("strong", "");
  return { node: make("li", "", make("span", `swatch part-${key}`), number, ` ${name}`), number };
}
