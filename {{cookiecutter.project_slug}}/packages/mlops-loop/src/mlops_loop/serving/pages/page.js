// Page: sends the form as one row to /v1/predict, shows the answer, and asks for the server's state.
"use strict";

const PAUSE = 5000; // milliseconds between two looks at the state
const find = (id) => document.getElementById(id);
const form = find("form"), button = document.querySelector("button");
const answer = find("answer"), key = find("key");
// By data-name: a feature's name as `name` could hide one of the form's own properties.
const fields = [...document.querySelectorAll("[data-name]")];
const format = (options) => new Intl.NumberFormat("en", options).format;
const number = format({ maximumSignificantDigits: 4 });
const hundredths = format({ maximumFractionDigits: 1 });
const percent = (share) => `${hundredths(100 * share)} %`;

// Texts are set as text, never as HTML: what the server says cannot become part of the page.
function element(tag, text = "", kind = "") {
  const made = document.createElement(tag);
  made.textContent = text;
  made.className = kind;
  return made;
}

function value(field) {
  if (field.value === "") return undefined; // not in the row
  if (field.type === "number") return field.valueAsNumber;
  if (field.type === "datetime-local") return field.value.padEnd(19, ":00"); // seconds may be left out
  return field.tagName === "SELECT" ? JSON.parse(field.value) : field.value;
}

function mark(field, problem) {
  find(`${field.id}-error`).textContent = problem;
  field.setAttribute("aria-invalid", problem !== "");
}

function show(...parts) {
  answer.replaceChildren(...parts);
  if (parts.length) answer.scrollIntoView({ block: "nearest" });
}

function bar([name, share]) {
  const line = element("li"), track = element("span", "", "track"), full = element("span", "", "full");
  full.style.width = `${100 * share}%`;
  track.append(full);
  if (name === answer.dataset.positive) { // from where on this class is the answer
    const threshold = element("span", "", "mark");
    threshold.style.left = `${100 * answer.dataset.threshold}%`;
    threshold.title = `answered from ${percent(answer.dataset.threshold)} on`;
    track.append(threshold);
  }
  line.append(element("span", name), element("span", percent(share), "share"), track);
  return line;
}

function showPrediction(found, version) {
  const unit = answer.dataset.unit ? ` ${answer.dataset.unit}` : "";
  const parts = [element("p", found.label ?? number(found.value) + unit, "result")];
  if (found.probabilities) {
    const bars = element("ul", "", "bars");
    bars.append(...Object.entries(found.probabilities).sort((one, other) => other[1] - one[1]).map(bar));
    parts.push(bars);
  } else {
    parts.push(element("p", `between ${found.interval.map((limit) => number(limit)).join(" and ")}${unit}`));
  }
  show(...parts, element("p", `Prediction ${found.id} of version ${version}`, "hint"));
}

// A refusal's `detail` is a text, or a list of {loc, msg}; loc may name a feature after the row's number.
function showRefusal(detail) {
  const general = [], wrong = [];
  for (const { loc = [], msg } of typeof detail === "string" ? [{ msg: detail }] : detail ?? []) {
    const name = loc[loc.findIndex((part) => typeof part === "number") + 1];
    const field = fields.find((field) => field.dataset.name === name);
    if (field) mark(field, msg);
    (field ? wrong : general).push(field ?? msg);
  }
  if (wrong.length) general.push("Please mend what is marked.");
  show(element("p", general.join(" ") || "The request was refused.", "problem"));
  wrong[0]?.focus();
}

function showTrouble(response, detail) {
  const wait = response.headers.get("Retry-After");
  const again = /^\d+$/.test(wait ?? "") ? `Try again in ${wait} s.` : "Try again in a moment.";
  const words = {
    429: `These are more requests than this key may send. ${again}`,
    503: `The server cannot answer just now. ${again}`,
  };
  if (response.status === 401) {
    find("with-key").hidden = false;
    mark(key, key.value ? "This key is not known." : "A key is needed.");
    show(element("p", "The server asks for a valid API key.", "problem"));
    key.focus();
  } else if (words[response.status]) {
    show(element("p", words[response.status], "problem"));
  } else if (response.status < 500) {
    showRefusal(detail);
  } else {
    show(element("p", `The server failed with ${response.status}.`, "problem"));
  }
}

async function predict() {
  const row = Object.fromEntries(fields.map((field) => [field.dataset.name, value(field)]));
  const headers = { "Content-Type": "application/json" };
  if (key.value) headers["X-API-Key"] = key.value;
  const sent = JSON.stringify({ rows: [row] });
  const response = await fetch("v1/predict", { method: "POST", headers, body: sent });
  const body = await response.json().catch(() => ({}));
  if (response.ok) showPrediction(body.predictions[0], body.model_version);
  else showTrouble(response, body.detail);
}

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  if (button.disabled) return;
  for (const field of [...fields, key]) mark(field, "");
  // The browser tells of all that it sees; what it cannot see, the server tells.
  const wrong = fields.filter((field) => !field.validity.valid);
  for (const field of wrong) mark(field, field.validationMessage);
  if (wrong.length) {
    show(element("p", "Please mend what is marked.", "problem"));
    wrong[0].focus();
    return;
  }
  button.disabled = true;
  try {
    await predict();
  } catch {
    show(element("p", "The server cannot be reached, or its answer cannot be read.", "problem"));
  }
  button.disabled = false;
});

// Return [name, value] of what is wrong although predictions are answered.
function troubles({ refused = {}, log = {} }) {
  const found = typeof refused === "string" ? [["refused", refused]]
    : Object.entries(refused).map(([variant, reason]) => [`newer ${variant} refused`, reason]);
  if (log.answers === false) found.push(["prediction log", "unreachable: predictions wait on disk"]);
  if (log.spool_rows > 0) found.push(["rows that wait on disk", number(log.spool_rows)]);
  return found;
}

function showState(kind, text, more = []) {
  const status = find("status"), details = find("details");
  status.dataset.state = kind;
  if (find("state").textContent !== text) find("state").textContent = text; // is read aloud when it changes
  details.replaceChildren(...more.flatMap(([name, value]) => [element("dt", name), element("dd", value)]));
}

async function look() {
  try {
    const response = await fetch("health/ready", { cache: "no-store" });
    const { status = "", model_version: version = "", ...more } = await response.json();
    const other = version && version !== find("status").dataset.version;
    const news = other ? ". Reload this page: its form and card are of another version" : "";
    const state = status || (response.ok ? "ready" : "not ready");
    const wrong = troubles(more);
    const good = response.ok && !other && !wrong.length;
    showState(good ? "good" : "poor", `Version ${version} is ${state}${news}`, wrong);
  } catch {
    showState("bad", "The server cannot be reached");
  }
}

async function watch() {
  if (!document.hidden) await look();
  setTimeout(watch, PAUSE);
}

find("no-script").remove();
button.disabled = false;
watch();
document.addEventListener("visibilitychange", () => document.hidden || look());
