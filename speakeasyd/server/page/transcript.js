// The transcript with its audio: the current word is highlighted; a chosen word is played.

import { h, settle } from "./dom.js";
import { colour } from "./speakers.js";
import { clock } from "./words.js";

const UNSURE = 0.5; // probability of a word, below which it is marked
const AT_ONCE = 300; // segments created before control returns to the browser
const LINGER_S = 0.5; // a word stays highlighted after its end
const EARLY_S = 0.02; // a seek may land slightly before the word
const STEPS = {
  ArrowDown: [".at", 1],
  ArrowUp: [".at", -1],
  ArrowRight: [".words > span", 1],
  ArrowLeft: [".words > span", -1],
};

/** `edit(number)` is called when the name of a speaker is chosen; `find` marks words: see marks.js. */
export function transcript(audio, edit, find = () => new Set()) {
  const element = h("div", { class: "transcript", role: "group", "aria-label": "Transcript" });
  const lines = new Map(); // elements of segments and gaps, by content
  let words = [],
    lit = null,
    turn = 0,
    frame = null,
    stop = null, // where the part that is played ends
    tellAway = () => {}; // whether the spoken word is out of sight
  const look = () => tellAway(lit !== null && !visible(lit.node));

  element.addEventListener("click", ({ target }) => {
    const who = target.closest("[data-speaker]")?.dataset.speaker;
    if (who !== undefined) edit(Number(who));
    const at = target.closest("[data-at]")?.dataset.at;
    if (at !== undefined && getSelection().isCollapsed) play(Number(at));
  });
  element.addEventListener("keydown", (event) => {
    const step = STEPS[event.key],
      word = event.target.closest(".words > span");
    const chosen = word && (event.key === "Enter" || event.key === " ");
    if (step || chosen) event.preventDefault();
    if (step) go(event.target, ...step);
    else if (chosen) play(Number(word.dataset.at));
  });
  audio.addEventListener("play", follow);
  audio.addEventListener("seeked", () => light());
  addEventListener("scroll", look, { passive: true });
  return {
    element,
    show,
    reach,
    playPart,
    showSpoken: () => lit?.node.scrollIntoView({ block: "center" }),
    listUnsure: () => [...element.querySelectorAll(".words > .low")],
    listHits: () => [...element.querySelectorAll(".words > .hit")],
    watch: (told) => {
      tellAway = told;
    },
    listLines: () => [...element.querySelectorAll(".words")].map((line) => line.textContent),
    focusWord: (word) => focus(word),
    leave: () => {
      turn += 1;
      cancelAnimationFrame(frame);
      removeEventListener("scroll", look);
    },
  };

  /** Updates the text in slices, since ten hours have 100,000 words. Returns false if a later call replaced it. */
  async function show(told, speakers = new Map()) {
    const mine = ++turn;
    const pieces = [...told.segments, ...told.gaps.map((gap) => ({ ...gap, gap: true }))].sort(
      (one, other) => one.start - other.start,
    );
    const keys = pieces.map((piece) => `${piece.start} ${piece.end} ${piece.track} ${piece.channel} ${speakers.get(piece.speaker)} ${piece.text}`),
      wanted = new Set(keys);
    for (const [key, { node }] of lines) if (!wanted.has(key) && lines.delete(key)) node.remove();
    for (let from = 0; from < pieces.length; from += AT_ONCE) {
      if (from && lines.size < from + AT_ONCE) await new Promise((over) => setTimeout(over));
      if (mine !== turn) return false;
      const upto = Math.min(from + AT_ONCE, pieces.length);
      for (let number = from; number < upto; number += 1) {
        if (!lines.has(keys[number]))
          lines.set(keys[number], pieces[number].gap ? gap(pieces[number]) : segment(pieces[number], speakers, find));
      }
      settle(
        element,
        keys.slice(0, upto).map((key) => lines.get(key).node),
      );
    }
    words = keys.flatMap((key) => lines.get(key).words).sort((one, other) => one.start - other.start);
    element.querySelector(".at:not([tabindex='-1'])") ?? element.querySelector(".at")?.removeAttribute("tabindex");
    if (audio.currentTime > 0) light();
    return true;
  }

  function play(at) {
    stop = null;
    audio.currentTime = at;
    audio.play().catch(() => {
      /* no audio: the page shows a message */
    });
  }

  function playPart(from, to) {
    play(from);
    stop = to;
  }

  /** Seeks without playing. */
  function reach(at) {
    audio.currentTime = at;
    light(at);
    lit?.node.closest("p").scrollIntoView({ block: "center" });
  }

  function follow() {
    if (stop !== null && audio.currentTime >= stop) {
      stop = null;
      audio.pause();
    }
    light();
    if (!audio.paused) frame = requestAnimationFrame(follow);
  }

  function light(at = audio.currentTime) {
    const last = words[after(words, at + EARLY_S) - 1],
      now = last && at < last.end + LINGER_S ? last : null;
    if (now === lit) return;
    const watched = !lit || visible(lit.node);
    lit?.node.classList.remove("lit");
    now?.node.classList.add("lit");
    if (now && watched && !audio.paused) now.node.scrollIntoView({ block: "nearest" });
    lit = now ?? lit;
    look();
  }

  /** The arrow keys move through segments and words; the transcript is one tab stop. */
  function go(from, selector, step) {
    const line = from.closest("p");
    const inside = [...line.querySelectorAll(selector)],
      place = inside.indexOf(from) + step;
    let to = inside[place];
    for (let next = line; !to && (next = step > 0 ? next.nextElementSibling : next.previousElementSibling);) {
      to = [...next.querySelectorAll(selector)].at(step > 0 ? 0 : -1);
    }
    if (to) focus(to);
  }

  function focus(to) {
    for (const stop of element.querySelectorAll(".at:not([tabindex='-1'])")) stop.tabIndex = -1;
    to.closest("p").querySelector(".at").removeAttribute("tabindex");
    if (!to.matches(".at")) to.tabIndex = -1;
    to.focus();
  }
}

function segment(piece, speakers, find) {
  const said = piece.words?.length ? piece.words : estimateWords(piece);
  const words = said.map(({ start, end, text, probability }) => ({
    start,
    end,
    node: h("span", { "data-at": start, class: probability < UNSURE ? "low" : null }, text.trimStart()),
  }));
  const found = find(said.map(({ text }) => text));
  for (const place of found) {
    words[place].node.classList.add("found");
    if (!found.has(place - 1)) words[place].node.classList.add("hit"); // words in a row are one hit
  }
  const spaced = words.map(({ node }, number) => [/^\s/.test(said[number].text) ? " " : "", node]);
  return { words, node: h("p", {}, time(piece.start), h("span", { class: "words" }, speaker(piece, speakers), spaced)) };
}

/** The words of a segment without word times: each takes time by its length. */
function estimateWords({ start, end, text, avg_logprob: logprob }) {
  const each = text.match(/\s*\S+/g) ?? [text];
  const probability = Math.exp(logprob ?? 0);
  let done = 0;
  return each.map((word) => {
    const from = start + ((end - start) * done) / text.length;
    done += word.length;
    return { start: from, end: start + ((end - start) * done) / text.length, text: word, probability };
  });
}

const gap = ({ start, end }) => ({
  words: [],
  node: h("p", { class: "gap" }, h("span", { class: "when" }, clock(start)), `not transcribed until ${clock(end)}`),
});

const time = (at) =>
  h(
    "button",
    { type: "button", class: "at", tabindex: -1, "data-at": at, "aria-label": `Play from ${clock(at)}` },
    clock(at),
  );

function speaker({ track, channel, speaker: number }, speakers) {
  if (speakers.has(number))
    return h(
      "button",
      { type: "button", class: `who ${colour(number)}`, tabindex: -1, "data-speaker": number, title: "Who is this?" },
      `${speakers.get(number)}:`,
    );
  if (speakers.size) return null;
  const names = [
    track && `Track ${track}`,
    typeof channel === "number" && (["Left", "Right"][channel] ?? `Channel ${channel + 1}`),
  ].filter(Boolean);
  return names.length ? h("b", {}, `${names.join(", ")}:`) : null;
}

/** The number of words that begin at or before `at` (binary search; words are sorted). */
function after(words, at) {
  let low = 0,
    high = words.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (words[middle].start <= at) low = middle + 1;
    else high = middle;
  }
  return low;
}

function visible(node) {
  const { top, bottom } = node.getBoundingClientRect();
  return bottom > 0 && top < innerHeight;
}
