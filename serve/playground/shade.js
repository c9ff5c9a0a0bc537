/** How P(tag) is displayed: a shade, a number, and a tip with the number of a token. */

const FLOOR = 0.0005;
const CEILING = 0.5;

/** The position of a probability on the logarithmic scale of the legend, 0 to 1. */
export function level(pTag) {
  if (!(pTag > FLOOR)) return 0;
  return Math.min(Math.log(pTag / FLOOR) / Math.log(CEILING / FLOOR), 1);
}

/** A probability as text; null and undefined mean that it was not measured. */
export function format(pTag) {
  if (typeof pTag !== "number") return "not measured";
  if (pTag > 0 && pTag < 0.0001) return "< 0.0001";
  return pTag >= 0.1 ? pTag.toFixed(2) : String(Number(pTag.toPrecision(2)));
}

/** Set the shade of an element for a P(tag), and store the P(tag) in its data. */
export function shade(element, pTag) {
  const measured = typeof pTag === "number";
  element.classList.toggle("unmeasured", !measured);
  element.style.setProperty("--level", measured ? level(pTag).toFixed(4) : "0");
  if (measured) element.dataset.pTag = String(pTag);
  else delete element.dataset.pTag;
  return element;
}

/** A shaded number. */
export function chip(pTag) {
  const element = shade(document.createElement("span"), pTag);
  element.classList.add("chip");
  element.textContent = format(pTag);
  return element;
}

const tip = document.getElementById("tip");

export function hideTip() {
  tip.hidden = true;
}

function showTip(token) {
  const pTag = token.dataset.pTag === undefined ? null : Number(token.dataset.pTag);
  tip.textContent = `P(tag) ${format(pTag)}`;
  tip.hidden = false;
  const [box] = token.getClientRects(); // the first line of a wrapped token
  if (!box) return hideTip();
  const left = Math.min(box.left, document.documentElement.clientWidth - tip.offsetWidth - 8);
  const above = box.top - tip.offsetHeight - 6;
  tip.style.left = `${Math.max(left, 8)}px`;
  tip.style.top = `${above < 4 ? box.bottom + 6 : above}px`;
}

/**
 * Show P(tag) of each `.token` in a container by pointer and by keyboard. The container is one stop of the Tab
 * key; the arrow keys move from token to token.
 */
export function addTokenTips(container) {
  const tokens = () => [...container.querySelectorAll(".token")];
  container.addEventListener("pointerover", ({ target }) => {
    if (target.classList.contains("token")) showTip(target);
  });
  container.addEventListener("pointerleave", hideTip);
  container.addEventListener("focusin", ({ target }) => {
    for (const other of container.querySelectorAll('[tabindex="0"]')) other.tabIndex = -1;
    target.tabIndex = 0;
    target.setAttribute("aria-describedby", "tip");
    showTip(target);
  });
  container.addEventListener("focusout", ({ target }) => {
    target.removeAttribute("aria-describedby");
    hideTip();
  });
  container.addEventListener("keydown", (event) => {
    const all = tokens();
    const current = all.indexOf(event.target);
    const next = { ArrowLeft: current - 1, ArrowRight: current + 1, Home: 0, End: all.length - 1 }[event.key];
    if (current < 0 || next === undefined) return;
    event.preventDefault();
    all[Math.min(Math.max(next, 0), all.length - 1)].focus();
  });
}

addEventListener("scroll", hideTip, { passive: true });
