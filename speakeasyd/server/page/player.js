// Controls of the recording: steps and speed, keys, words to check, the text for the clipboard.

import { complain, h, tell } from "./dom.js";
import { plural } from "./words.js";

const STEP_S = 5;
const SPEEDS = [0.5, 0.75, 1, 1.25, 1.5, 2];
const OWN_KEYS = "input, select, textarea, button, a, summary, audio, dialog, .transcript";

export function controls(audio, text) {
  const keys = { " ": toggle, ArrowLeft: () => step(-STEP_S), ArrowRight: () => step(STEP_S) };
  const speed = h(
    "select",
    { onchange: ({ target }) => (audio.playbackRate = Number(target.value)) },
    SPEEDS.map((one) => h("option", { value: one, selected: one === 1 }, `${one}×`)),
  );
  let last = null; // the unsure word that was focused last
  const unsure = h("button", { type: "button", class: "quiet", hidden: true, onclick: check });
  const element = h(
    "div",
    { class: "actions", role: "group", "aria-label": "Controls of the recording" },
    h(
      "span",
      { class: "hearing actions" },
      button(`−${STEP_S} s`, () => step(-STEP_S), "Back 5 seconds"),
      button(`+${STEP_S} s`, () => step(STEP_S), "Forward 5 seconds"),
      h("label", {}, "Speed ", speed),
      button("Current word", text.showSpoken, "Scroll to the word that is spoken"),
    ),
    unsure,
    button("Copy text", copy),
  );
  addEventListener("keydown", press);
  return {
    element,
    leave: () => removeEventListener("keydown", press),
    update: () => {
      const count = text.listUnsure().length;
      unsure.hidden = !count;
      unsure.textContent = `Next unsure word (${count.toLocaleString()})`;
    },
  };

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

  /** Focus the next word of low probability after the last one. */
  function check() {
    const all = text.listUnsure(),
      next = (all.indexOf(last) + 1) % all.length;
    last = all[next];
    text.focusWord(last);
    tell(`Unsure word ${next + 1} of ${all.length}`);
  }

  function copy() {
    const lines = text.listLines();
    navigator.clipboard.writeText(lines.join("\n")).then(() => tell(`Copied: ${plural(lines.length, "line")}`), complain);
  }
}

const button = (label, onclick, title = null) =>
  h("button", { type: "button", class: "quiet", title, "aria-label": title, onclick }, label);
