// The speakers of a job: who speaks how much, a snippet of each voice, and corrections.

import { ask, send } from "./api.js";
import { bar, complain, h, redraw, tell } from "./dom.js";
import { clock, plural } from "./words.js";

const COLOURS = 8; // in style.css
const SNIPPET_S = 6; // seconds
const MOST = 10; // speakers offered to choose from

/** How the transcript calls its speakers, by number. Empty if the only one has no name. */
export function names(told) {
  const all = told.speakers ?? [];
  if (all.length === 1 && !all[0].name) return new Map();
  return new Map(all.map((one) => [one.number, label(one)]));
}

export const label = ({ number, name }) => name ?? `Speaker ${number}`;

/** The class that gives a speaker a colour; the name is always there as well. */
export const colour = (number) => `voice-${((number - 1) % COLOURS) + 1}`;

/** The panel of a job. `play(from, to)` plays a part of the recording; `changed()` is called after a correction. */
export function panel(id, { play, changed }) {
  const element = h("section", { class: "speakers", "aria-label": "Speakers", hidden: true });
  let told = { speakers: [], turns: [] };

  return { element, show, edit };

  function show({ speakers = [], turns = [] }) {
    told = { speakers, turns };
    element.hidden = !speakers.length;
    redraw(element, speakers, content);
  }

  function* content(speakers) {
    yield h("h2", {}, plural(speakers.length, "speaker"));
    yield h("ul", {}, speakers.map(line));
    const count = h(
      "select",
      {},
      h("option", { value: "auto" }, "as many as there seem to be"),
      Array.from({ length: MOST }, (_, number) => h("option", { value: number + 1 }, number + 1)),
    );
    const again = () => correct({ count: count.value === "auto" ? "auto" : Number(count.value) });
    yield h(
      "details",
      {},
      h("summary", {}, "The number is wrong"),
      h(
        "div",
        { class: "filters" },
        h("label", {}, "Speakers ", count),
        h("button", { type: "button", class: "quiet", onclick: again }, "Find them again"),
      ),
    );
  }

  function line(one) {
    const name = label(one),
      share = one.share ?? 0;
    return h(
      "li",
      {},
      h(
        "button",
        { type: "button", class: `quiet who ${colour(one.number)}`, title: "Hear this voice", onclick: () => hear(one) },
        name,
      ),
      bar(share, `Share of ${name}`, { class: colour(one.number) }),
      h("span", { class: "facts" }, `${clock(one.seconds)} · ${Math.round(100 * share)} %`),
      h(
        "button",
        { type: "button", class: "quiet", "aria-label": `Correct ${name}`, onclick: () => edit(one.number) },
        "Correct",
      ),
      one.suggestion && suggestion(one),
    );
  }

  function suggestion(one) {
    const agree = () => correct({ names: { [one.number]: one.suggestion } });
    return h(
      "span",
      { class: "suggestion" },
      `Perhaps ${one.suggestion}. `,
      h("button", { type: "button", class: "quiet", onclick: agree }, `This is ${one.suggestion}`),
    );
  }

  /** Plays the longest stretch in which only this speaker talks. */
  function hear({ number }) {
    const own = told.turns.filter((turn) => turn.speaker === number && !turn.overlap);
    const longest = own.sort((one, other) => other.end - other.start - (one.end - one.start))[0];
    if (longest) play(longest.start, Math.min(longest.end, longest.start + SNIPPET_S));
  }

  /** Asks who a speaker is. */
  function edit(number) {
    const one = told.speakers.find((speaker) => speaker.number === number);
    if (!one) return;
    const others = told.speakers.filter((other) => other !== one);
    const name = h("input", { name: "name", value: one.name, maxlength: 100, autocomplete: "off" }),
      remember = h("input", { type: "checkbox", name: "remember" }),
      same = h(
        "select",
        { name: "same" },
        h("option", { value: "" }, "nobody else"),
        others.map((other) => h("option", { value: other.number }, label(other))),
      );
    const dialog = h(
      "dialog",
      { class: "correction", "aria-labelledby": "correction-title", onclose: () => dialog.remove() },
      h(
        "form",
        { method: "dialog", onsubmit: () => store() },
        h("h2", { id: "correction-title" }, `Who is ${label(one)}?`),
        h("label", {}, "Name ", name),
        others.length > 0 && h("label", {}, "The same person as ", same),
        h("label", { class: "choice" }, remember, " Recognise this voice in other files"),
        h(
          "p",
          { class: "actions" },
          h("button", {}, "Save"),
          h("button", { type: "button", class: "quiet", onclick: divide }, "These are two people"),
          h("button", { type: "button", class: "quiet", onclick: () => dialog.close() }, "Cancel"),
        ),
      ),
    );
    document.body.append(dialog);
    dialog.showModal();

    function divide() {
      dialog.close();
      correct({ split: number });
    }

    async function store() {
      const said = name.value.trim(),
        wish = {};
      if (remember.checked && said && !(await post(said))) return;
      if (same.value) wish.merge = [number, Number(same.value)];
      const kept = same.value ? Math.min(number, Number(same.value)) : number;
      if (said !== (one.name ?? "") && (said || !same.value)) wish.names = { [kept]: said };
      if (Object.keys(wish).length) await correct(wish);
    }

    function post(said) {
      const wish = { name: said, job_id: Number(id), speaker: number };
      return send("/people", wish).then(
        () => true,
        (problem) => complain(problem),
      );
    }
  }

  async function correct(wish) {
    try {
      const { speakers } = await send(`/jobs/${id}/speakers`, wish, "PATCH");
      tell(`Speakers: ${speakers.join(", ")}`);
    } catch (problem) {
      complain(problem);
    }
    changed();
  }
}
