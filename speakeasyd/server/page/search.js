// Where something was said, in all transcripts.

import { ask, query } from "./api.js";
import { clock, h, plural, tell } from "./dom.js";

export function open(main, _rest, asked) {
  const values = Object.fromEntries(["q", "since", "until", "preset", "channel"].map((name) => [name, asked.get(name) ?? ""]));
  const hits = h("ol", { class: "hits" });
  const told = h("p", { class: "facts" });
  const input = h("input", { type: "search", name: "q", value: values.q, placeholder: "words, \"a phrase\", beginn*" });

  main.replaceChildren(
    h("h1", {}, "Search"),
    h("form", { class: "filters", role: "search", "aria-label": "Search everything that was said", onsubmit: go },
      h("label", { class: "wide" }, "Words ", input),
      h("label", {}, "From ", h("input", { type: "date", name: "since", value: values.since })),
      h("label", {}, "To ", h("input", { type: "date", name: "until", value: values.until })),
      h("button", {}, "Search")),
    told, hits);
  if (values.q) find();
  else input.focus();
  return { title: values.q ? `“${values.q}”` : "Search" };

  function go(event) {
    event.preventDefault();
    location.hash = `#/search${query({ ...values, ...Object.fromEntries(new FormData(event.target)) })}`;
  }

  async function find() {
    try {
      const found = (await ask(`/search${query({ ...values, limit: 50 })}`)).hits;
      told.textContent = found.length ? `${plural(found.length, "place")}${found.length === 50 ? ", the best of them" : ""}` : "Nowhere.";
      hits.replaceChildren(...found.map(hit));
    } catch (problem) {
      told.textContent = `${problem.message} ${problem.hint}`;
    }
    tell(told.textContent);
  }
}

function hit(found) {
  return h("li", {}, h("a", { href: `#/job/${found.job_id}?t=${found.start}` },
    h("span", { class: "path" }, `${found.path}, ${clock(found.start)}`),
    h("span", { class: "snippet" }, ...marked(found.snippet))));
}

/** The words found stand in brackets. */
function marked(snippet) {
  return snippet.split(/\[([^\]]*)\]/).map((part, number) => (number % 2 ? h("mark", {}, part) : part));
}
