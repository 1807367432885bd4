// Where something was said, in all transcripts.

import { ask, query } from "./api.js";
import { h, tell } from "./dom.js";
import { clock, plural } from "./words.js";

const MOST = 100;  // hits

export function open(main, { asked }) {
  const words = asked.get("q") ?? "", hits = h("ol", { class: "hits" }), told = h("p", { class: "facts" });
  const input = h("input", { type: "search", name: "q", value: words, placeholder: "words, or the beginn* of one", enterkeyhint: "search" });

  main.replaceChildren(
    h("h1", { tabindex: -1 }, "Search"),
    h("form", { class: "filters", role: "search", "aria-label": "Search everything that was said", onsubmit: go },
      h("label", { class: "wide" }, "Words ", input), h("button", {}, "Search")),
    told, hits);
  if (!words) setTimeout(() => input.focus());
  return { title: words ? `“${words}”` : "Search", ready: words ? find() : null };

  function go(event) {
    event.preventDefault();
    location.hash = `#/search${query({ q: input.value.trim() })}`;
  }

  async function find() {
    try {
      const { hits: found } = await ask(`/search${query({ q: words, limit: MOST })}`);
      told.textContent = found.length ? `${plural(found.length, "place")}${found.length === MOST ? ", the best of them" : ""}` : "It was said nowhere.";
      hits.replaceChildren(...found.map(hit));
    } catch (problem) {
      told.textContent = `${problem.message} ${problem.hint}`;
    }
    tell(told.textContent);
  }
}

function hit(found) {
  return h("li", {}, h("a", { href: `#/job/${found.job_id}?t=${found.start}` },
    h("span", { class: "path" }, found.path, " ", h("span", { class: "moment" }, clock(found.start))),
    h("span", { class: "snippet" }, marked(found.snippet))));
}

/** The words found stand in brackets. */
function marked(snippet) {
  return snippet.split(/\[([^\]]*)\]/).map((part, number) => (number % 2 ? h("mark", {}, part) : part));
}
