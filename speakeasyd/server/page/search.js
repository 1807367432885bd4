// Search in all transcripts. The hits are grouped by file.

import { ask, query } from "./api.js";
import { h, redraw, tell } from "./dom.js";
import { clock, joined, plural, when } from "./words.js";

const PAGE = 100; // hits at a time
const FILTERS = ["since", "until", "batch", "preset", "speaker", "channel"];
const SIDES = ["left", "right"];

export function open(main, { asked, status }) {
  const words = asked.get("q") ?? "",
    list = h("ol", { class: "files" }),
    told = h("p", { class: "facts" }),
    more = h("button", { type: "button", class: "quiet", hidden: true, onclick: () => find() }, "Show more");
  const files = new Map(); // the element with the hits of each job
  const seen = new Set(); // hits: the ledger may change between two pages
  let next = 0; // where the next hits begin
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
    list,
    h("p", { class: "pager" }, more),
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

  /** Shows the first hits, or those that follow. */
  async function find() {
    const wanted = Object.fromEntries(["q", ...FILTERS].map((name) => [name, asked.get(name)]));
    try {
      const answer = await ask(`/search${query({ ...wanted, offset: next, limit: PAGE })}`);
      const added = answer.hits.map(add).filter(Boolean);
      next = answer.next;
      more.hidden = next === null;
      told.textContent = seen.size
        ? `${plural(seen.size, "match", "matches")} in ${plural(files.size, "file")}${next === null ? "" : " so far"}`
        : "No matches.";
      if (seen.size > added.length) added[0]?.querySelector("a").focus();
    } catch (problem) {
      told.textContent = `${problem.message} ${problem.hint}`;
    }
    tell(told.textContent);
  }

  /** Adds a hit to those of its file. Returns its element; null if it is there already. */
  function add(found) {
    const key = JSON.stringify(found); // two tracks may have hits at the same time
    if (seen.has(key)) return null;
    seen.add(key);
    if (!files.has(found.job_id)) {
      const hits = h("ol", { class: "hits" });
      files.set(found.job_id, hits);
      list.append(h("li", {}, file(found), hits));
    }
    const hits = files.get(found.job_id);
    const after = [...hits.children].find((one) => Number(one.dataset.start) > found.start);
    return hits.insertBefore(hit(found, words), after ?? null);
  }
}

const file = (found) =>
  h(
    "h2",
    { class: "file" },
    h("a", { href: `#/job/${found.job_id}` }, found.path),
    found.created_at && when(found.created_at),
  );

function hit(found, words) {
  return h(
    "li",
    { "data-start": found.start },
    h(
      "a",
      { href: `#/job/${found.job_id}${query({ t: found.start, q: words })}` },
      h("span", { class: "moment" }, joined(clock(found.start), found.speaker ?? SIDES[found.channel])),
      h("span", { class: "snippet" }, marked(found.snippet)),
    ),
  );
}

/** The server puts matches in brackets. */
function marked(snippet) {
  return snippet.split(/\[([^\]]*)\]/).map((part, number) => (number % 2 ? h("mark", {}, part) : part));
}
