// The view of the people whose voices are recognised.

import { ask, send } from "./api.js";
import { complain, h, redraw } from "./dom.js";

export function open(main) {
  const list = h("ul", { class: "people" });
  main.replaceChildren(
    h("h1", { tabindex: -1 }, "People"),
    h(
      "p",
      { class: "facts" },
      "Their voices are recognised in new files. A voice is remembered from a recording of one person, or on the page of a job: Correct, then Recognise this voice.",
    ),
    enrolment(load),
    list,
  );
  return { title: "People", ready: load() };

  async function load() {
    const answer = await ask("/people").catch(complain);
    if (answer) redraw(list, answer.people, (people) => (people.length ? people.map(person) : [nobody()]));
  }

  function person({ name, samples }) {
    const change = (wish, method) =>
      send(`/people/${encodeURIComponent(name)}`, wish, method).catch(complain).then(load);
    const input = h("input", { value: name, maxlength: 100, required: true, autocomplete: "off" });
    return h(
      "li",
      {},
      h(
        "form",
        {
          class: "filters",
          onsubmit: (event) => {
            event.preventDefault();
            change({ name: input.value }, "PATCH");
          },
        },
        h("label", {}, `Name of ${name} `, input),
        h("button", { class: "quiet" }, "Rename"),
        h(
          "button",
          { type: "button", class: "quiet", "aria-label": `Forget ${name}`, onclick: () => change(undefined, "DELETE") },
          "Forget",
        ),
      ),
      h("small", {}, samples.map(({ source, seconds }) => `${source} (${Math.round(seconds)} s)`).join(", ")),
    );
  }
}

const nobody = () => h("li", { class: "empty" }, "Nobody is known.");

/** The form that remembers a voice from a recording; `done()` is called after it. */
function enrolment(done) {
  const name = h("input", { name: "name", maxlength: 100, required: true, autocomplete: "off" }),
    file = h("input", { name: "file", type: "file", accept: "audio/*,video/*", required: true }),
    add = h("button", {}, "Remember this voice"),
    said = h("p", { class: "facts", role: "status", hidden: true });
  return h(
    "form",
    { class: "filters enrolment", "aria-label": "Add a person", onsubmit: enrol },
    h("label", {}, "Name ", name),
    h("label", { class: "wide" }, "Recording of this person alone, 5 s or longer ", file),
    add,
    said,
  );

  async function enrol(event) {
    event.preventDefault();
    const form = event.target;
    add.disabled = true;
    show("Listening to the recording.");
    try {
      const { seconds } = await ask("/people/samples", { method: "POST", body: new FormData(form) });
      show(`${name.value}: ${Math.round(seconds)} s of speech are remembered.`);
      form.reset();
      done();
    } catch (problem) {
      show(`${problem.message.replace(/[^.]$/, "$&.")} ${problem.hint}`, true);
    }
    add.disabled = false;
  }

  function show(text, wrong = false) {
    said.hidden = false;
    said.className = wrong ? "problem" : "facts";
    said.textContent = text;
  }
}
