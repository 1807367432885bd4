// Search in all transcripts.

import { ask, query } from "./api.js";
import { h, redraw, tell } from "./dom.js";
import { clock, joined, plural, when } from "./words.js";

const MOST = 100; // hits
const FILTERS = ["since", "until", "batch", "preset", "speaker", "channel"];
const SIDES = ["left", "right"];

export function open(main, { asked, status }) {
  const words = asked.get("q") ?? "",
    hits = h("ol", { class: "hits" }),
    told = h("p", { class: "facts" });
  const narrowed = FILTERS.some((name) => asked.get(name));
  const input = h("input", {
    type: "search",
    name: "q",
    value: words,
    placeholder: 'words, "a phrase", begin*, -not',
    enterkeyhint: "search",
  });
  const preset = h("select", { name: "preset" });
  const field = (label, name, type) => h("label", {}, `${label} `, h("input", { type, name, value: asked.get(name) }));

  main.replaceChildren(
    h("h1", { tabindex: -1 }, "Search"),
    h(
      "form",
      { class: "filters", role: "search", "aria-label": "Search all transcripts", onsubmit: go },
      h("label", { class: "wide" }, "Words ", input),
      h("button", {}, "Search"),
      h(
        "details",
        { open: narrowed },
        h("summary", {}, "Filters"),
        h(
          "div",
          { class: "filters" },
          field("Received from", "since", "date"),
          field("to", "until", "date"),
          field("Batch", "batch", "text"),
          field("Speaker", "speaker", "text"),
          h("label", {}, "Preset ", preset),
          h(
            "label",
            {},
            "Channel ",
            h(
              "select",
              { name: "channel" },
              h("option", { value: "" }, "any"),
              SIDES.map((side, number) =>
                h("option", { value: number, selected: asked.get("channel") === String(number) }, side),
              ),
            ),
          ),
        ),
      ),
    ),
    told,
    hits,
  );
  if (status) offer(status);
  if (!words) setTimeout(() => input.focus());
  return { title: words ? `“${words}”` : "Search", ready: words ? find() : null, status: offer };

  function offer({ presets }) {
    preset.parentElement.hidden = !presets.length;
    redraw(preset, presets, () => [
      h("option", { value: "" }, "any"),
      ...presets.map((name) => h("option", { selected: name === asked.get("preset") }, name)),
    ]);
  }

  function go(event) {
    event.preventDefault();
    location.hash = `#/search${query(Object.fromEntries(new FormData(event.target)))}`;
  }

  async function find() {
    const wanted = Object.fromEntries(["q", ...FILTERS].map((name) => [name, asked.get(name)]));
    try {
      const { hits: found } = await ask(`/search${query({ ...wanted, limit: MOST })}`);
      told.textContent = found.length
        ? `${plural(found.length, "match", "matches")}${found.length === MOST ? " (only the best are shown)" : ""}`
        : "No matches.";
      hits.replaceChildren(...found.map(hit));
    } catch (problem) {
      told.textContent = `${problem.message} ${problem.hint}`;
    }
    tell(told.textContent);
  }
}

function hit(found) {
  return h(
    "li",
    {},
    h(
      "a",
      { href: `#/job/${found.job_id}?t=${found.start}` },
      h(
        "span",
        { class: "path" },
        found.path,
        " ",
        h("span", { class: "moment" }, joined(clock(found.start), found.speaker ?? SIDES[found.channel])),
      ),
      found.created_at && when(found.created_at),
      h("span", { class: "snippet" }, marked(found.snippet)),
    ),
  );
}

/** The server puts matches in brackets. */
function marked(snippet) {
  return snippet.split(/\[([^\]]*)\]/).map((part, number) => (number % 2 ? h("mark", {}, part) : part));
}
