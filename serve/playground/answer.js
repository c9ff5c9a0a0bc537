/** One answer on the page: its tokens as they arrive, and the server's report at the end. */

import { addTokenTips, chip, shade } from "./shade.js";

const ENDED = { stop: "end of text", length: "max_tokens", content_filter: "safety mode" };

export class Answer {
  /** @param section an element with the data-parts mode, count, text, error and report */
  constructor(section) {
    this.section = section;
    this.part = (name) => section.querySelector(`[data-part="${name}"]`);
    addTokenTips(this.part("text"));
  }

  /** The value of data-state: idle, waiting, streaming, done, stopped or failed. */
  get state() {
    return this.section.dataset.state;
  }

  /** Clear the last answer and wait for one in this mode. */
  begin(mode) {
    this.text = "";
    this.count = 0;
    this.pendingPTag = null; // highest P(tag) of tokens whose text has not arrived
    this.part("text").replaceChildren();
    this.part("report").replaceChildren();
    this.part("report").hidden = this.part("error").hidden = true;
    this.part("mode").textContent = mode;
    this.#enter("waiting", "waiting …");
  }

  /** Append the choice of one chunk. */
  add(choice) {
    const text = choice.text ?? choice.delta?.content ?? "";
    const tokens = choice.logprobs?.tokens ?? choice.logprobs?.content?.map((entry) => entry.token) ?? [];
    const safety = choice.safety ?? {};
    const pTags = safety.p_tags ?? [];
    this.count += Math.max(tokens.length, pTags.length);
    this.#write(text, tokens, pTags, choice.finish_reason === "content_filter");
    this.#enter("streaming", `${this.count} tokens …`);
    if (choice.finish_reason) this.#report(choice.finish_reason, safety);
  }

  end() {
    this.#enter("done", `${this.count} tokens`);
  }

  /** The user has stopped the request. */
  stop() {
    this.#enter("stopped", `stopped after ${this.count} tokens`);
  }

  /** @param message one sentence */
  fail(message) {
    this.part("error").textContent = message;
    this.part("error").hidden = false;
    this.#enter("failed", this.count ? `failed after ${this.count} tokens` : "");
  }

  #enter(state, status) {
    this.section.dataset.state = state;
    this.part("text").ariaBusy = String(state === "waiting" || state === "streaming");
    this.part("count").textContent = status;
  }

  /**
   * Append one span per token of a chunk. Not every token is in the text: an end of text is omitted, and a
   * character of several tokens arrives with the last of them, so its P(tag) is the highest of theirs. Text
   * without a token is the refusal if the safety mode ended the text.
   */
  #write(text, tokens, pTags, refused) {
    let rest = text;
    pTags.slice(tokens.length).forEach((pTag) => this.#collect(pTag));
    tokens.forEach((token, index) => {
      this.#collect(pTags[index]);
      const gap = rest.length - rest.trimStart().length; // some tokenizers do not count a space as part of the token
      const start = rest.startsWith(token) ? 0 : rest.startsWith(token, gap) ? gap : -1;
      if (!token || start < 0) return;
      this.#append(rest.slice(0, start + token.length), this.pendingPTag);
      rest = rest.slice(start + token.length);
      this.pendingPTag = null;
    });
    if (rest && refused) {
      this.#append(rest, null).classList.add("refusal");
    } else if (rest) {
      this.#append(rest, this.pendingPTag);
      this.pendingPTag = null;
    }
  }

  #collect(pTag) {
    if (typeof pTag === "number") this.pendingPTag = Math.max(this.pendingPTag ?? 0, pTag);
  }

  #append(text, pTag) {
    const span = shade(document.createElement("span"), pTag);
    span.classList.add("token");
    span.textContent = text;
    span.tabIndex = this.text ? -1 : 0;
    this.text += text;
    this.part("text").append(span);
    return span;
  }

  #report(finish, safety) {
    const stopped = safety.stopped && typeof safety.threshold === "number";
    this.#row("mode", "Mode", safety.mode ?? this.part("mode").textContent);
    this.#row("p_tag", "Highest P(tag)", chip(safety.p_tag));
    this.#row("p_tag_mean", "Mean P(tag)", chip(safety.p_tag_mean));
    this.#row("prompt_p_tag", "After the prompt", chip(safety.prompt_p_tag));
    this.#row("stopped", "Stopped", safety.stopped ? "yes" : "no");
    this.#row("ended", "Ended", stopped ? `P(tag) reached ${safety.threshold}` : (ENDED[finish] ?? finish));
    this.part("report").hidden = false;
  }

  #row(field, name, value) {
    const row = document.createElement("div");
    const [term, description] = [document.createElement("dt"), document.createElement("dd")];
    term.textContent = name;
    description.dataset.field = field;
    description.append(value);
    row.append(term, description);
    this.part("report").append(row);
  }
}
