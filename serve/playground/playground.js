/** The form: what may be asked here, and one prompt asked twice. */

import { Answer } from "./answer.js";
import { Dropped } from "./dropped.js";
import { hideTip } from "./shade.js";
import { choices, sentence } from "./stream.js";

const SEARCH = ["num_candidates", "drop_share", "stride"];
const MODES = {
  off: { settings: ["temperature"] },
  mask: { settings: ["temperature"], says: "The tag itself is never sampled; nothing else changes." },
  stop: {
    settings: ["temperature", "threshold"],
    says: "The text ends where the model expects the tag: as soon as P(tag) reaches the threshold.",
  },
  safebeam: {
    settings: ["beam_size", ...SEARCH],
    says: "Beam search that looks one token ahead and drops the candidates the tag would most likely follow.",
  },
  sample: {
    settings: ["temperature", ...SEARCH],
    says: "Sampling that looks one token ahead: of the likeliest tokens it drops those the tag would most likely follow.",
  },
};

const byId = (id) => document.getElementById(id);
const form = byId("form");
const plain = new Answer(byId("plain"));
const safe = new Answer(byId("safe"));
const dropped = new Dropped(byId("dropped"));
let server; // what GET v1/safety answered
let running = null; // the AbortController of the answers under way

const field = (name) => form.elements[name];
const searches = (mode) => SEARCH.every((name) => MODES[mode]?.settings.includes(name));
const plainMode = () => (server.allow_off && server.modes.includes("off") ? "off" : "mask");

async function prepare() {
  let response;
  try {
    response = await fetch("v1/safety");
  } catch {
    throw new Error("The server cannot be reached.");
  }
  if (!response.ok) throw new Error(await sentence(response));
  server = await response.json();
  byId("model").textContent = ` · ${server.model}`;
  plain.part("mode").textContent = plainMode();
  byId("api").hidden = !server.chat;
  byId("key").parentElement.hidden = !server.needs_key;
  byId("key").required = Boolean(server.needs_key);
  for (const name of ["threshold", "beam_size", "num_candidates", "drop_share"]) {
    if (server[name] != null) field(name).value = server[name];
  }
  if (server.max_tokens != null) {
    field("max_tokens").max = server.max_tokens;
    field("max_tokens").value = Math.min(server.max_tokens, 64);
  }
  const modes = server.modes.filter((mode) => mode !== "off");
  const first = modes.includes("safebeam") ? "safebeam" : modes.includes(server.mode) ? server.mode : modes[0];
  byId("modes").querySelector(".segments").replaceChildren(...modes.map((mode) => radio(mode, mode === first)));
  adapt();
  byId("ask").disabled = false;
}

function radio(mode, checked) {
  const input = document.createElement("input");
  Object.assign(input, { type: "radio", name: "mode", value: mode, defaultChecked: checked });
  const [label, text] = [document.createElement("label"), document.createElement("span")];
  text.textContent = mode;
  label.append(input, text);
  return label;
}

/** Show the settings of the chosen mode alone, and whether they fit the server's limit of rows. */
function adapt() {
  const mode = field("mode").value;
  const used = ["max_tokens", "temperature", ...(MODES[mode]?.settings ?? [])];
  for (const label of form.querySelectorAll(".settings > [data-setting]:not([data-setting=key])")) {
    label.hidden = !used.includes(label.dataset.setting);
    label.querySelector("input").disabled = label.hidden; // what is hidden cannot be wrong
  }
  byId("mode-says").textContent = MODES[mode]?.says ?? "";
  byId("temperature-says").textContent =
    mode === "safebeam" ? "of the plain answer" : "0: always the likeliest";
  safe.part("mode").textContent = running ? safe.part("mode").textContent : mode;
  const beams = mode === "safebeam" ? field("beam_size").valueAsNumber : 1;
  const rows = beams * field("num_candidates").valueAsNumber;
  const most = server.max_rows ?? Infinity;
  byId("rows").textContent = `of each beam; ${rows || "?"} rows${most < Infinity ? ` of ${most}` : ""}`;
  field("num_candidates").setCustomValidity(
    rows > most ? `beam_size × num_candidates is ${rows}, and this server allows at most ${most}.` : "",
  );
}

/** The path and body that ask for an answer in this mode. */
function question(mode) {
  const body = { model: server.model, max_tokens: field("max_tokens").valueAsNumber, stream: true };
  const safety = { mode, explain: true };
  for (const name of MODES[mode]?.settings ?? []) {
    (name === "temperature" ? body : safety)[name] = field(name).valueAsNumber;
  }
  const prompt = field("prompt").value;
  if (server.chat && field("api").value === "chat") {
    const messages = [{ role: "user", content: prompt }];
    return ["v1/chat/completions", { ...body, messages, logprobs: true, top_logprobs: 0, safety }];
  }
  return ["v1/completions", { ...body, prompt, logprobs: 1, safety }];
}

async function show(answer, mode, listen = () => {}) {
  const { signal } = running;
  const [path, body] = question(mode);
  answer.begin(mode);
  try {
    for await (const choice of choices(path, body, byId("key").value, signal)) {
      answer.add(choice);
      listen(choice);
    }
    answer.end();
  } catch (error) {
    if (signal.aborted) answer.stop();
    else answer.fail(error.message);
  }
}

async function ask() {
  if (running || byId("ask").disabled || !form.reportValidity()) return;
  running = new AbortController();
  const mode = field("mode").value;
  byId("ask").ariaDisabled = "true"; // not `disabled`: the keyboard's focus would be lost
  byId("stop").disabled = false;
  byId("status").textContent = "Asking …";
  hideTip();
  dropped.begin(searches(mode));
  await Promise.all([
    show(plain, plainMode()),
    show(safe, mode, (choice) => dropped.add(choice.safety?.dropped, safe.text)),
  ]);
  dropped.end(safe.text);
  running = null;
  byId("ask").ariaDisabled = null;
  if (document.activeElement === byId("stop")) byId("ask").focus();
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
  ask();
});
form.addEventListener("input", () => server && adapt());
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
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && event.target === field("prompt")) ask();
});

prepare().catch((error) => {
  byId("trouble").textContent = error.message;
  byId("trouble").hidden = false;
});
