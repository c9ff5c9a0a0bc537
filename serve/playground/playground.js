/** The form: it offers the modes of the server, and requests two answers to one prompt. */

import { Answer } from "./answer.js";
import { Dropped } from "./dropped.js";
import { hideTip } from "./shade.js";
import { choices, errorMessage } from "./stream.js";

const byId = (id) => document.getElementById(id);
const form = byId("form");
const plain = new Answer(byId("plain"));
const safe = new Answer(byId("safe"));
const dropped = new Dropped(byId("dropped"));
let server; // the response of GET v1/safety
let running = null; // the AbortController of the running requests

const field = (name) => form.elements[name];

/** The names of the mode's settings that the form has. */
function settingsOf(mode) {
  const { parameters, samples } = server.decoding[mode];
  return [...(samples ? ["temperature"] : []), ...parameters.filter((name) => field(name))];
}

const plainMode = () => (server.allow_off && server.modes.includes("off") ? "off" : "mask");

async function prepare() {
  let response;
  try {
    response = await fetch("v1/safety");
  } catch {
    throw new Error("The server cannot be reached.");
  }
  if (!response.ok) throw new Error(await errorMessage(response));
  server = await response.json();
  byId("model").textContent = ` · ${server.model}`;
  plain.part("mode").textContent = plainMode();
  byId("api").hidden = !server.chat;
  byId("key").parentElement.hidden = !server.needs_key;
  byId("key").required = Boolean(server.needs_key);
  for (const name of ["threshold", "beam_size", "num_candidates", "drop_share", "stride"]) {
    if (server[name] != null) field(name).value = server[name];
  }
  if (server.max_tokens != null) {
    field("max_tokens").max = server.max_tokens;
    field("max_tokens").value = Math.min(server.max_tokens, 64);
  }
  const guarded = server.modes.filter((mode) => mode !== "off");
  const modes = guarded.length ? guarded : server.modes; // a model without the tag has mode off only
  const selected = modes.includes("safebeam") ? "safebeam" : modes.includes(server.mode) ? server.mode : modes[0];
  byId("modes").querySelector(".segments").replaceChildren(...modes.map((mode) => radio(mode, mode === selected)));
  updateForm();
  byId("generate").disabled = false;
}

function radio(mode, checked) {
  const input = document.createElement("input");
  Object.assign(input, { type: "radio", name: "mode", value: mode, defaultChecked: checked });
  const [label, text] = [document.createElement("label"), document.createElement("span")];
  text.textContent = mode;
  label.append(input, text);
  return label;
}

/** Show only the settings of the selected mode, and check the server's limit of rows. */
function updateForm() {
  const mode = field("mode").value;
  const used = ["max_tokens", "temperature", ...settingsOf(mode)];
  for (const label of form.querySelectorAll(".settings > [data-setting]:not([data-setting=key])")) {
    label.hidden = !used.includes(label.dataset.setting);
    label.querySelector("input").disabled = label.hidden; // hidden settings are not validated
  }
  byId("mode-summary").textContent = server.decoding[mode].summary;
  byId("temperature-hint").textContent =
    server.decoding[mode].samples ? "0: always the most likely token" : "plain answer only";
  safe.part("mode").textContent = running ? safe.part("mode").textContent : mode;
  const beams = used.includes("beam_size") ? field("beam_size").valueAsNumber : 1;
  const rows = beams * field("num_candidates").valueAsNumber;
  const limit = server.max_rows ?? Infinity;
  byId("rows").textContent = `per beam; ${rows || "?"} rows${limit < Infinity ? ` of ${limit}` : ""}`;
  field("num_candidates").setCustomValidity(
    rows > limit ? `beam_size × num_candidates is ${rows}, which exceeds this server’s limit of ${limit}.` : "",
  );
}

/** The path and body of a request in this mode. */
function requestOf(mode) {
  const body = { model: server.model, max_tokens: field("max_tokens").valueAsNumber, stream: true };
  const safety = { mode, explain: true };
  for (const name of settingsOf(mode)) {
    (name === "temperature" ? body : safety)[name] = field(name).valueAsNumber;
  }
  const prompt = field("prompt").value;
  if (server.chat && field("api").value === "chat") {
    const messages = [{ role: "user", content: prompt }];
    return ["v1/chat/completions", { ...body, messages, logprobs: true, top_logprobs: 0, safety }];
  }
  return ["v1/completions", { ...body, prompt, logprobs: 1, safety }];
}

async function stream(answer, mode, onChoice = () => {}) {
  const { signal } = running;
  const [path, body] = requestOf(mode);
  answer.begin(mode);
  try {
    for await (const choice of choices(path, body, byId("key").value, signal)) {
      answer.add(choice);
      onChoice(choice);
    }
    answer.end();
  } catch (error) {
    if (signal.aborted) answer.stop();
    else answer.fail(error.message);
  }
}

async function generate() {
  if (running || byId("generate").disabled || !form.reportValidity()) return;
  running = new AbortController();
  const mode = field("mode").value;
  byId("generate").ariaDisabled = "true"; // `disabled` would move the keyboard focus
  byId("stop").disabled = false;
  byId("status").textContent = "Generating …";
  hideTip();
  dropped.begin(server.decoding[mode].searches);
  await Promise.all([
    stream(plain, plainMode()),
    stream(safe, mode, (choice) => dropped.add(choice.safety?.dropped, safe.text)),
  ]);
  dropped.end(safe.text);
  running = null;
  byId("generate").ariaDisabled = null;
  if (document.activeElement === byId("stop")) byId("generate").focus();
  byId("stop").disabled = true;
  byId("status").textContent = outcome(plain.state, safe.state);
}

function outcome(...states) {
  if (states.includes("stopped")) return "Stopped.";
  const failed = states.filter((state) => state === "failed").length;
  return ["Both answers are complete.", "One answer failed.", "Both answers failed."][failed];
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  generate();
});
form.addEventListener("input", () => server && updateForm());
byId("stop").addEventListener("click", () => running?.abort());
byId("examples").addEventListener("click", ({ target }) => {
  if (target.tagName !== "BUTTON") return;
  field("prompt").value = target.textContent;
  field("prompt").focus();
});
addEventListener("keydown", (event) => {
  if (event.key === "Escape") {
    hideTip();
    running?.abort();
  }
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && event.target === field("prompt")) generate();
});

prepare().catch((error) => {
  byId("unavailable").textContent = error.message;
  byId("unavailable").hidden = false;
});
