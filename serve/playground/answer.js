/** One answer on the page: its tokens as they come, and what the server reports at the end. */

import { chip, shade, tellTokens } from "./shade.js";

const ENDED = { stop: "by itself", length: "at max_tokens", content_filter: "by the safety mode" };

export class Answer {
  /** @param section an element with the data-parts mode, count, text, error and report */
  constructor(section) {
    this.section = section;
    this.part = (name) => section.querySelector(`[data-part="${name}"]`);
    tellTokens(this.part("text"));
  }

  /** As in the attribute data-state: idle, waiting, streaming, done, stopped or failed. */
  get state() {
    return this.section.dataset.state;
  }

  /** Forget the last answer and wait for one in this mode. */
  begin(mode) {
    this.text = "";
    this.count = 0;
    this.carried = null; // P(tag) of tokens whose text is still to come
    this.part("text").replaceChildren();
    this.part("report").replaceChildren();
    this.part("report").hidden = this.part("error").hidden = true;
    this.part("mode").textContent = mode;
    this.#enter("waiting", "waiting …");
  }

  /** Show what one chunk's choice adds. */
  add(choice) {
    const text = choice.text ?? choice.delta?.content ?? "";
    const tokens = choice.logprobs?.tokens ?? choice.logprobs?.content?.map((one) => one.token) ?? [];
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

  /** The person had enough. */
  stop() {
    this.#enter("stopped", `stopped by you after ${this.count} tokens`);
  }

  /** @param why one sentence */
  fail(why) {
    this.part("error").textContent = why;
    this.part("error").hidden = false;
    this.#enter("failed", this.count ? `broke off after ${this.count} tokens` : "");
  }

  #enter(state, says) {
    this.section.dataset.state = state;
    this.part("text").ariaBusy = String(state === "waiting" || state === "streaming");
    this.part("count").textContent = says;
  }

  /**
   * Spans for the text of a chunk, token by token. A token need not stand in the text: an end of text is
   * left out, and a character of several tokens comes with the last of them, so its P(tag) is their highest.
   * What no token accounts for is a refusal where the safety mode ended the text.
   */
  #write(text, tokens, pTags, refused) {
    let rest = text;
    pTags.slice(tokens.length).forEach((pTag) => this.#carry(pTag));
    tokens.forEach((token, index) => {
      this.#carry(pTags[index]);
      const gap = rest.length - rest.trimStart().length; // some tokenizers keep a space out of the token
      const start = rest.startsWith(token) ? 0 : rest.startsWith(token, gap) ? gap : -1;
      if (!token || start < 0) return;
      this.#append(rest.slice(0, start + token.length), this.carried);
      rest = rest.slice(start + token.length);
      this.carried = null;
    });
    if (rest && refused) {
      this.#append(rest, null).classList.add("refusal");
    } else if (rest) {
      this.#append(rest, this.carried);
      this.carried = null;
    }
  }

  #carry(pTag) {
    if (typeof pTag === "number") this.carried = Math.max(this.carried ?? 0, pTag);
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
    const [term, said] = [document.createElement("dt"), document.createElement("dd")];
    term.textContent = name;
    said.dataset.field = field;
    said.append(value);
    row.append(term, said);
    this.part("report").append(row);
  }
}
