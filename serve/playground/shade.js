/** P(tag) as it is shown everywhere: a shade, a number, and a tip that tells the number of a token. */

const FLOOR = 0.0005;
const CEILING = 0.5;

/** 0 to 1: the place of a probability on the logarithmic scale that the legend shows. */
export function level(pTag) {
  if (!(pTag > FLOOR)) return 0;
  return Math.min(Math.log(pTag / FLOOR) / Math.log(CEILING / FLOOR), 1);
}

/** The number as people read it; null and undefined are what was not measured. */
export function spell(pTag) {
  if (typeof pTag !== "number") return "not measured";
  if (pTag > 0 && pTag < 0.0001) return "< 0.0001";
  return pTag >= 0.1 ? pTag.toFixed(2) : String(Number(pTag.toPrecision(2)));
}

/** Give an element the shade of a P(tag), and the P(tag) itself as data. */
export function shade(element, pTag) {
  const measured = typeof pTag === "number";
  element.classList.toggle("unmeasured", !measured);
  element.style.setProperty("--level", measured ? level(pTag).toFixed(4) : "0");
  if (measured) element.dataset.pTag = String(pTag);
  else delete element.dataset.pTag;
  return element;
}

/** A small shaded number. */
export function chip(pTag) {
  const element = shade(document.createElement("span"), pTag);
  element.classList.add("chip");
  element.textContent = spell(pTag);
  return element;
}

const tip = document.getElementById("tip");

export function hideTip() {
  tip.hidden = true;
}

function showTip(token) {
  const pTag = token.dataset.pTag === undefined ? null : Number(token.dataset.pTag);
  tip.textContent = `P(tag) ${spell(pTag)}`;
  tip.hidden = false;
  const [place] = token.getClientRects(); // the first line of a token that was wrapped
  if (!place) return hideTip();
  const left = Math.min(place.left, document.documentElement.clientWidth - tip.offsetWidth - 8);
  const above = place.top - tip.offsetHeight - 6;
  tip.style.left = `${Math.max(left, 8)}px`;
  tip.style.top = `${above < 4 ? place.bottom + 6 : above}px`;
}

/**
 * Tell P(tag) of each `.token` in a container, by pointer and by keyboard: the container is one stop of the
 * Tab key, however many tokens it holds, and the arrow keys go on from there.
 */
export function tellTokens(container) {
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
    const here = all.indexOf(event.target);
    const there = { ArrowLeft: here - 1, ArrowRight: here + 1, Home: 0, End: all.length - 1 }[event.key];
    if (here < 0 || there === undefined) return;
    event.preventDefault();
    all[Math.min(Math.max(there, 0), all.length - 1)].focus();
  });
}

addEventListener("scroll", hideTip, { passive: true });
