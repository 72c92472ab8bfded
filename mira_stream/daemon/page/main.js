// Asks the daemon how it is every two seconds and shows it; says so when it does not answer.

import { say, mark } from "./dom.js";
import { duration } from "./format.js";
import { showFigures } from "./figures.js";
import { showFlow } from "./flow.js";
import { showLetters, showConfig } from "./letters.js";
import { showPools } from "./pools.js";
import { showScores } from "./scores.js";
import { showLost, showVerdict } from "./verdict.js";

const EVERY_MS = 2000;
const PATIENCE_MS = 5000;
const LOST_AFTER = 2; // answers that were missed
const at = (id) => document.getElementById(id);
// Without the credentials that the address may hold: a request to such an address is refused by the browser.
const STATUS = new URL("status.json", location.origin + location.pathname);

let version = null;
let answeredAt = null;
let missed = 0;
let trouble = "";

/** What the daemon says of itself; throws a NoStatus with the reason where there is none. */
async function ask() {
  let answer;
  try {
    answer = await fetch(STATUS, { cache: "no-store", signal: AbortSignal.timeout(PATIENCE_MS) });
    if (answer.ok) return await answer.json();
  } catch (error) {
    throw new NoStatus(error.name === "TimeoutError" ? "no answer in time" : "nobody answers there");
  }
  throw new NoStatus(answer.status === 401 ? "it asks for the token: load the page again" : `it answers ${answer.status}`);
}

class NoStatus extends Error {}

function show(status) {
  if (version !== null && version !== status.version) location.reload(); // another release has another page
  version = status.version;
  say(at("about"), `${status.version} · ${status.state} · up ${duration(status.uptime_seconds)}`);
  showVerdict(status.diagnosis);
  showFigures(at("figures"), status);
  showFlow(at("flow"), at("identity"), status);
  showPools(at("pools"), status);
  showScores(at("scores-of"), at("scores"), status);
  showLetters(at("letters"), status);
  showConfig(at("config"), status);
  at("body").hidden = false;
}

function showLink() {
  const age = answeredAt === null ? null : (performance.now() - answeredAt) / 1000;
  const lost = missed >= LOST_AFTER;
  mark(at("link"), "data-state", lost ? "lost" : age === null ? "waiting" : "live");
  mark(document.body, "data-lost", lost ? "" : null);
  if (lost) {
    say(at("link-text"), age === null ? "no answer" : `no answer for ${duration(age)}`);
    showLost(trouble, age === null ? null : new Date(Date.now() - 1000 * age));
  } else if (age !== null) {
    say(at("link-text"), `live · updated ${age < 1.5 ? "now" : `${Math.round(age)} s ago`}`);
  }
}

async function poll() {
  try {
    const status = await ask();
    answeredAt = performance.now();
    missed = 0;
    show(status);
  } catch (error) {
    missed += 1;
    trouble = error.message;
    if (!(error instanceof NoStatus)) reportError(error); // a bug of the page: it goes on, and says so
  } finally {
    showLink();
  }
}

/** One round after another, never two at once; none while nobody sees the page. */
async function pollForEver() {
  for (;;) {
    await poll();
    await new Promise((done) => setTimeout(done, EVERY_MS));
    if (document.hidden) await new Promise((done) => document.addEventListener("visibilitychange", done, { once: true }));
  }
}

setInterval(showLink, 1000);
pollForEver();
