// Controls of the recording: steps and speed, keys, the text for the clipboard, places to go to.

import { copy, h, tell } from "./dom.js";
import { plural } from "./words.js";

const STEP_S = 5;
const SPEEDS = [0.5, 0.75, 1, 1.25, 1.5, 2];
const OWN_KEYS = "input, select, textarea, button, a, summary, audio, dialog, .transcript";

/** `words`: what was searched for; empty: nothing was. */
export function controls(audio, text, words) {
  const keys = { " ": toggle, ArrowLeft: () => step(-STEP_S), ArrowRight: () => step(STEP_S) };
  const speed = h(
    "select",
    { onchange: ({ target }) => (audio.playbackRate = Number(target.value)) },
    SPEEDS.map((one) => h("option", { value: one, selected: one === 1 }, `${one}×`)),
  );
  const hits = stepper(`“${words}”`, "hit", text.listHits);
  const unsure = stepper("Unsure words", "unsure word", text.listUnsure);
  const element = h(
    "div",
    { class: "actions", role: "group", "aria-label": "Controls of the recording" },
    h(
      "span",
      { class: "hearing actions" },
      button(`−${STEP_S} s`, () => step(-STEP_S), "Back 5 seconds"),
      button(`+${STEP_S} s`, () => step(STEP_S), "Forward 5 seconds"),
      h("label", {}, h("span", { class: "roomy" }, "Speed "), speed),
    ),
    button("Copy text", () => copy(text.listLines().join("\n"), plural(text.listLines().length, "line"))),
    hits.element,
    unsure.element,
  );
  const back = h(
    "button",
    { type: "button", class: "return", hidden: true, onclick: text.showSpoken },
    "Back to the spoken word",
  );
  text.watch((away) => {
    back.hidden = !away;
  });
  addEventListener("keydown", press);
  return {
    element,
    back,
    leave: () => removeEventListener("keydown", press),
    update: () => {
      hits.update();
      unsure.update();
    },
  };

  /** Buttons that lead through places in the text, with their number. `list()` returns these. */
  function stepper(title, one, list) {
    let last = null; // the place that was shown last
    const count = h("span", { class: "facts" });
    const element = h(
      "span",
      { class: "stepper", role: "group", "aria-label": title, hidden: true },
      h("span", { class: "title" }, title),
      button("↑", () => go(-1), `Previous ${one}`),
      count,
      button("↓", () => go(1), `Next ${one}`),
    );
    return { element, update };

    function update() {
      const all = list(),
        place = all.indexOf(last);
      element.hidden = !all.length;
      count.textContent =
        place < 0 ? all.length.toLocaleString() : `${(place + 1).toLocaleString()} of ${all.length.toLocaleString()}`;
    }

    function go(by) {
      const all = list(),
        place = all.indexOf(last);
      const to = place < 0 ? nearest(all, by) : (place + by + all.length) % all.length;
      last = all[to];
      text.focusWord(last);
      update();
      tell(`${one} ${to + 1} of ${all.length}`);
    }
  }

  /** The first place from the current position on, in this direction; else the first of all. */
  function nearest(all, by) {
    const at = audio.currentTime;
    const found =
      by > 0 ? all.findIndex(({ dataset }) => dataset.at >= at) : all.findLastIndex(({ dataset }) => dataset.at < at);
    return found < 0 ? (by > 0 ? 0 : all.length - 1) : found;
  }

  function press(event) {
    const action = keys[event.key];
    if (!action || event.ctrlKey || event.altKey || event.metaKey || event.target.closest(OWN_KEYS)) return;
    event.preventDefault();
    action();
  }

  function toggle() {
    if (audio.paused) audio.play().catch(() => {});
    else audio.pause();
  }

  function step(seconds) {
    audio.currentTime = Math.max(0, audio.currentTime + seconds);
  }
}

const button = (label, onclick, title = null) =>
  h("button", { type: "button", class: "quiet", title, "aria-label": title, onclick }, label);
