/** The candidates a search dropped: step by step, each with its text, its P(tag) and its log-probability. */

import { chip, spell } from "./shade.js";

const LEAD = 40; // characters shown of what a candidate shares with the answer
const GLANCE = 60; // characters shown where a step is closed

export class Dropped {
  /** @param section an element with the data-parts summary and steps */
  constructor(section) {
    this.section = section;
    this.part = (name) => section.querySelector(`[data-part="${name}"]`);
  }

  /** Forget the last search; `searches` says whether the next answer is one. */
  begin(searches) {
    this.steps = new Map();
    this.part("steps").replaceChildren();
    this.part("summary").textContent = "Nothing so far.";
    this.section.hidden = !searches;
  }

  /** @param found candidates {step, text, p_tag, log_prob, kept_p_tag}; @param answer the text so far */
  add(found, answer) {
    const touched = new Set();
    for (const candidate of found ?? []) {
      const number = candidate.step ?? 0;
      if (!this.steps.has(number)) this.steps.set(number, this.#open(number));
      this.steps.get(number).candidates.push(candidate);
      touched.add(number);
    }
    for (const number of touched) this.#show(this.steps.get(number), answer);
    if (touched.size) this.#summarise();
  }

  /** The answer is complete: show where each candidate left it. */
  end(answer) {
    for (const step of this.steps.values()) this.#show(step, answer);
    if (!this.steps.size) this.part("summary").textContent = "Nothing was dropped.";
  }

  #open(number) {
    const details = document.createElement("details");
    details.dataset.step = number;
    details.open = this.steps.size === 0; // the first shows what is in the others
    details.append(element("summary", "")); // stays: it may have the keyboard's focus
    this.part("steps").append(details);
    return { number, details, candidates: [] };
  }

  #show({ number, details, candidates }, answer) {
    candidates.sort((one, other) => (other.p_tag ?? 0) - (one.p_tag ?? 0));
    const worst = element("span", "worst");
    worst.append(chip(candidates[0].p_tag), path(candidates[0].text ?? "", answer, GLANCE));
    const kept = element("span", "kept soft", "kept at ");
    kept.append(chip(candidates[0].kept_p_tag));
    const title = element("b", "", `Step ${number}`);
    const summary = details.querySelector("summary");
    summary.replaceChildren(title, element("span", "soft", `${candidates.length} dropped`), worst, kept);

    const table = document.createElement("table");
    const head = table.createTHead().insertRow();
    for (const name of ["P(tag)", "log-probability", "Candidate"]) {
      const cell = element("th", "", name);
      cell.scope = "col";
      head.append(cell);
    }
    const body = table.createTBody();
    for (const candidate of candidates) {
      const row = body.insertRow();
      row.insertCell().append(chip(candidate.p_tag));
      row.insertCell().append(candidate.log_prob?.toFixed(2).replace("-", "−") ?? "not measured");
      row.insertCell().append(path(candidate.text ?? "", answer));
    }
    details.replaceChildren(summary, table);
  }

  #summarise() {
    const all = [...this.steps.values()].flatMap((step) => step.candidates);
    const worst = all.reduce((one, other) => ((other.p_tag ?? 0) > (one.p_tag ?? 0) ? other : one));
    this.part("summary").textContent =
      `${count(all.length, "candidate")} dropped in ${count(this.steps.size, "step")}, with P(tag) up to ` +
      `${spell(worst.p_tag)}. Bold is where a candidate left the answer’s path; a step is one look-ahead.`;
  }
}

/** A candidate's text, of which the end matters most: what it shares with the answer, and its own part. */
function path(text, answer, most = Infinity) {
  let shared = 0;
  while (shared < text.length && text[shared] === answer[shared]) shared += 1;
  if (shared < text.length) shared = Math.max(text.slice(0, shared + 1).search(/\s?\S*$/), 0); // whole words
  const from = Math.max(shared - LEAD, text.length - most, 0);
  const span = element("span", "path", (from ? "…" : "") + text.slice(from, shared));
  if (shared < text.length) span.append(element("strong", "", text.slice(Math.max(from, shared))));
  return span;
}

function element(name, classes, text = "") {
  const made = document.createElement(name);
  made.className = classes;
  made.textContent = text;
  return made;
}

function count(number, name) {
  return `${number} ${name}${number === 1 ? "" : "s"}`;
}
