// Is it healthy, what limits it, what is to be done: in words, at the top.

import { keep, make, mark, say, sayWithCode } from "./dom.js";

const at = (id) => document.getElementById(id);
const SIGNS = { well: "✓", look: "!", wrong: "✕" };

/** What the daemon says of itself. */
export function showVerdict(diagnosis) {
  mark(at("verdict"), "data-health", diagnosis.health);
  say(at("verdict-says"), diagnosis.says);
  say(at("verdict-limit"), diagnosis.limit);
  showAdvice(diagnosis.advice);
  document.title = `${SIGNS[diagnosis.health]} mira-stream: ${diagnosis.says.replace(/\.$/, "")}`;
}

/** The daemon does not answer: what is on the page is of an earlier time. */
export function showLost(why, last) {
  mark(at("verdict"), "data-health", "wrong");
  say(at("verdict-says"), "The daemon does not answer.");
  const known = last === null ? "Nothing is known of it yet." : `What is shown below was true at ${last.toLocaleTimeString("en-GB")}.`;
  say(at("verdict-limit"), `${known} The page goes on asking.`);
  showAdvice([
    {
      health: "wrong",
      says: `No status: ${why}.`,
      do: "See whether it runs, `systemctl status mira-stream`, and what it said last, `journalctl -u mira-stream -e`.",
      runbook: null,
    },
  ]);
  document.title = "✕ mira-stream: no answer";
}

function showAdvice(advice) {
  at("advice-none").hidden = advice.length > 0;
  keep(at("advice"), advice.map((one, number) => ({ ...one, number })), (one) => one.number, makeAdvice, fillAdvice);
}

function makeAdvice() {
  const parts = { says: make("p", "says"), does: make("p", "does"), more: make("p", "more") };
  return { node: make("li", "", parts.says, parts.does, parts.more), ...parts };
}

function fillAdvice(made, one) {
  mark(made.node, "data-health", one.health);
  say(made.says, one.says);
  sayWithCode(made.does, one.do);
  say(made.more, one.runbook ? `ops/runbook.md, “${one.runbook}”` : "");
  made.more.hidden = !one.runbook;
}
