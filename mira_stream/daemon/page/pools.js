// Pools and their replicas: what is in flight, what would fit, and what keeps the next record out.

import { bar, keep, make, mark, say } from "./dom.js";
import { brief, count, duration, share, words } from "./format.js";

const COLUMNS = [
  ["name", "replica"],
  ["limit", "limited by"],
  ["tokens", "tokens in flight"],
  ["prefill", "to prefill"],
  ["requests", "requests"],
  ["latency", "latency p50 / p95"],
  ["engine", "engine says"],
  ["faults", "answers, faults"],
];
const WELL = ["kv", "prefill", "source_starved"];

/** All pools, stopped ones too. */
export function showPools(root, status) {
  keep(root, status.pools, (pool) => pool.group, makePool, (made, pool) => fillPool(made, pool, status.words));
}

function makePool(pool) {
  const made = { group: make("span", "", pool.group), limit: make("span", "chip"), facts: make("p", "note"), waste: make("p", "note"), stopped: make("p", "stopped"), rows: make("tbody") };
  const head = make("tr", "", ...COLUMNS.map(([, title]) => scoped(make("th", "", title))));
  const table = make("table", "replicas", make("thead", "", head), made.rows);
  made.none = make("p", "note", "No replica is known yet.");
  const title = make("h2", "", "Pool ", made.group);
  made.model = make("span", "model");
  made.node = make("section", "card pool", make("div", "head", title, made.model, made.limit), made.stopped, make("div", "", made.facts, made.waste), table, made.none);
  made.table = table;
  return made;
}

function scoped(cell) {
  cell.scope = "col";
  return cell;
}

function fillPool(made, pool, says) {
  say(made.model, pool.model);
  const factor = pool.stopped ? "stopped" : pool.limiting_factor;
  say(made.limit, pool.stopped ? "stopped" : factor ? says[factor] ?? factor : "sending");
  mark(made.limit, "data-health", pool.stopped ? "wrong" : factorHealth(factor));
  made.stopped.hidden = !pool.stopped;
  say(made.stopped, pool.stopped ?? "");
  say(made.facts, facts(pool).join(" · "));
  say(made.waste, waste(pool));
  made.waste.hidden = !made.waste.textContent;
  made.table.hidden = pool.replicas.length === 0;
  made.none.hidden = pool.replicas.length > 0;
  keep(made.rows, pool.replicas, (one) => one.name, makeReplica, (row, one) => fillReplica(row, one, pool, says));
}

const factorHealth = (factor) => (factor === null || WELL.includes(factor) ? "well" : "look");

function facts(pool) {
  const list = [`${count(pool.window_records)} records in the window, which has ${count(pool.window_records_limit)} places for new ones`];
  if (pool.prefix_possible_ratio) list.push(`all prompts have ${share(pool.prefix_possible_ratio)} in common`);
  if (pool.count_error_ratio !== null) list.push(`counts off by ${share(pool.count_error_ratio)} in the mean`);
  if (pool.reasks) list.push(`${count(pool.reasks)} replies asked again`);
  return list;
}

function waste(pool) {
  const causes = Object.entries(pool.wasted_tokens).sort(([, one], [, other]) => other - one);
  if (!causes.length) return "";
  return `Tokens that brought nothing: ${causes.map(([cause, tokens]) => `${brief(tokens)} ${words(cause)}`).join(", ")}`;
}

function makeReplica() {
  const row = { node: make("tr"), cells: {} };
  for (const [key, title] of COLUMNS) {
    const cell = make("td", `col-${key}`);
    cell.dataset.label = title;
    row.node.append(cell);
    row.cells[key] = cell;
  }
  row.name = make("span", "replica-name");
  row.state = make("span", "note");
  row.cells.name.append(row.name, row.state);
  row.limit = make("span", "chip");
  row.cells.limit.append(row.limit);
  for (const key of ["tokens", "prefill"]) {
    row[key] = { bar: bar(), text: make("span", "figures-line"), note: make("span", "note") };
    row.cells[key].append(row[key].text, row[key].bar.node, row[key].note);
  }
  for (const key of ["requests", "latency", "engine", "faults"]) {
    row[key] = { text: make("span", "figures-line"), note: make("span", "note") };
    row.cells[key].append(row[key].text, row[key].note);
  }
  return row;
}

function fillReplica(row, one, pool, says) {
  say(row.name, one.name.replace(/^http:\/\//, ""));
  say(row.state, one.leaving ? "leaving" : "");
  const open = one.breaker !== "closed";
  const [limit, health] = limitOf(one, pool, says);
  say(row.limit, limit);
  mark(row.limit, "data-health", health);
  fillTokens(row, one);
  say(row.requests.text, `${count(one.requests)} of ${count(one.requests_limit)}`);
  say(row.requests.note, one.foreign_requests ? `${count(one.foreign_requests)} of others` : "");
  say(row.latency.text, one.latency_seconds ? one.latency_seconds.map(duration).join(" / ") : "–");
  say(row.engine.text, one.running === null ? "no metrics" : `${count(one.running)} run, ${count(one.waiting ?? 0)} wait`);
  const old = one.stale || (one.requests && (one.telemetry_age_seconds ?? 0) > 10);
  const notes = [];
  if (one.kv_usage !== null) notes.push(`KV ${share(one.kv_usage)}`);
  if (one.prefix_hit_ratio !== null && pool.prefix_possible_ratio) notes.push(`prefix hits ${share(one.prefix_hit_ratio)}`);
  if (old) notes.push(`${duration(one.telemetry_age_seconds ?? 0)} old`);
  say(row.engine.note, notes.join(", "));
  fillFaults(row, one);
}

function limitOf(one, pool, says) {
  if (one.breaker !== "closed") return [`breaker ${words(one.breaker)}`, one.breaker === "open" ? "wrong" : "look"];
  if (pool.stopped) return ["pool stopped", "wrong"];
  const factor = one.limiting_factor;
  return [factor === null ? "takes more" : says[factor] ?? factor, factorHealth(factor)];
}

function fillTokens(row, one) {
  row.tokens.bar.set(one.reserved_tokens / one.reserved_tokens_limit);
  say(row.tokens.text, `${brief(one.reserved_tokens)} of ${brief(one.reserved_tokens_limit)}`);
  const cut = one.capacity_share < 0.995 ? `, ${share(one.capacity_share)} used` : "";
  say(row.tokens.note, `${words(one.capacity_origin)} capacity ${brief(one.capacity_tokens)}${cut}`);
  row.prefill.bar.set(one.unprefilled_tokens / one.unprefilled_tokens_limit);
  say(row.prefill.text, `${brief(one.unprefilled_tokens)} of ${brief(one.unprefilled_tokens_limit)}`);
  say(row.prefill.note, `${brief(one.prefill_tokens_per_second)}/s`);
}

function fillFaults(row, one) {
  say(row.faults.text, count(one.answers));
  const faults = Object.entries(one.faults).sort(([, first], [, second]) => second - first);
  say(row.faults.note, faults.map(([kind, number]) => `${count(number)} ${words(kind)}`).join(", "));
}
