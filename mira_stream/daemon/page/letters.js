// Why records were not scored, the latest dead letters, and what the daemon was told to do.

import { keep, make, mark, say, sayWithCode } from "./dom.js";
import { clock, count, words } from "./format.js";

let shown = null;

/** Reasons with what they mean and what to do, then the latest dead letters. */
export function showLetters(root, status) {
  shown ??= makeLetters(root);
  shown.none.hidden = status.reasons.length > 0 || status.letters.length > 0;
  shown.reasons.hidden = status.reasons.length === 0;
  keep(shown.reasons, status.reasons, (one) => one.reason, makeReason, fillReason);
  shown.title.hidden = shown.list.hidden = status.letters.length === 0;
  const advice = new Map(status.reasons.map((one) => [one.reason, one]));
  keep(shown.list, status.letters, (one) => `${one.record_id} ${one.scored_at}`, makeLetter, (made, one) => fillLetter(made, one, advice.get(one.reason)));
}

function makeLetters(root) {
  const made = { none: make("p", "note empty", "None: every record that has ended is scored."), reasons: make("ul", "reasons"), list: make("ul", "letters") };
  made.title = make("h3", "", "Latest dead letters");
  made.title.id = "latest-title";
  mark(made.list, "tabindex", "0");
  mark(made.list, "aria-labelledby", "latest-title");
  root.append(made.none, made.reasons, made.title, made.list);
  return made;
}

function makeReason() {
  const made = { number: make("strong", "reason-count"), name: make("code"), means: make("span", "means"), advice: make("span", "advice-line") };
  made.kind = make("span", "note");
  made.node = make("li", "", make("p", "reason-head", made.number, made.name, made.kind), make("p", "", made.means, made.advice));
  return made;
}

function fillReason(made, one) {
  say(made.number, count(one.records));
  say(made.name, one.reason);
  say(made.kind, one.outcome === "skipped" ? "skipped" : "dead letter" + (one.records === 1 ? "" : "s"));
  say(made.means, `${sentence(one.meaning)} `);
  sayWithCode(made.advice, sentence(one.advice));
}

const sentence = (text) => `${text.charAt(0).toUpperCase()}${text.slice(1)}.`;

function makeLetter() {
  const made = { time: make("span", "time"), reason: make("code"), where: make("bdi", "where"), said: make("bdi", "said") };
  const facts = make("dl", "facts");
  made.facts = facts;
  made.node = make("li", "", make("details", "", make("summary", "", made.time, made.reason, made.where), facts));
  return made;
}

function fillLetter(made, one, reason) {
  say(made.time, clock(one.scored_at));
  say(made.reason, one.reason);
  say(made.where, `${one.object.split("/").pop()}, line ${one.ordinal}`);
  const facts = [
    ["object", `${one.object}, line ${one.ordinal}`],
    ["source", one.group ? `${one.source}, ${one.group}` : one.source],
    ["asked", one.attempts ? `${count(one.attempts)} times, the last at ${one.replica}` : "nobody"],
  ];
  if (reason) facts.push(["means", sentence(reason.meaning)], ["do", sentence(reason.advice)]);
  if (one.said !== null) facts.push(["said", one.said]);
  facts.push(["more", `mira-stream dead-letters explain ${one.record_id} --config …`]);
  fillFacts(made.facts, facts);
}

function fillFacts(root, facts) {
  keep(root, facts, ([name]) => name, makeFact, (made, [name, text]) => (name === "do" ? sayWithCode : say)(made.text, text));
}

function makeFact([name]) {
  const text = make(name === "more" ? "code" : "bdi");
  return { node: make("div", "", make("dt", "", words(name)), make("dd", "", text)), text };
}

/** What the daemon was told, in short. */
export function showConfig(root, status) {
  const { config } = status;
  const mode = config.mode === "tokens" ? "token ids, templated here" : "chat messages, templated by the replicas";
  fillFacts(root, [
    ["reads", config.once ? `${config.source}, once` : `${config.source}, and follows it`],
    ["publishes", `${config.sink}, as ${config.format}`],
    ["ledger", config.ledger],
    ["sends", mode],
    ["version", status.version],
  ]);
}
