// Which jobs the queue shows, and in which order.

import { ask, query } from "./api.js";
import { h, redraw } from "./dom.js";
import { Status } from "./kinds.js";

const TYPING_MS = 250;
const WIDE = matchMedia("(min-width: 40rem)"); // as in style.css: there is room for all filters
const STATUSES = Object.values(Status);
const MOST_BATCHES = 200; // offered while a name is typed
export const NEWEST = "-date";
const ORDERS = {
  [NEWEST]: "newest first",
  date: "oldest first",
  name: "name, A to Z",
  "-name": "name, Z to A",
  "-length": "longest first",
  length: "shortest first",
  status: "status",
};

/** `choose(changes, typing)` is called with each change; `typing`: more of them follow at once. */
export function filters({ status, batch, q, sort }, choose) {
  let timer = null;
  const typed = (name) => ({ target }) => {
    clearTimeout(timer);
    timer = setTimeout(() => choose({ [name]: target.value.trim() }, true), TYPING_MS);
  };
  const options = [
    h("option", { value: "" }, "all"),
    ...STATUSES.map((name) => h("option", { value: name, selected: name === status }, name)),
  ];
  const orders = Object.entries(ORDERS).map(([name, words]) =>
    h("option", { value: name, selected: name === (sort ?? NEWEST) }, words),
  );
  const batches = h("datalist", { id: "batches" });
  const element = h(
    "form",
    { class: "filters", role: "search", "aria-label": "Filters", onsubmit: (event) => event.preventDefault() },
    h(
      "label",
      { class: "wide" },
      "File name ",
      h("input", { type: "search", value: q, placeholder: "part of the name or folder", oninput: typed("q") }),
    ),
    h(
      "details",
      { class: "narrowing", open: WIDE.matches || Boolean(status || batch || sort) },
      h("summary", {}, "Filters"),
      h(
        "div",
        { class: "filters" },
        h("label", {}, "Status ", h("select", { onchange: ({ target }) => choose({ status: target.value }) }, options)),
        h(
          "label",
          {},
          "Batch ",
          h("input", {
            type: "search",
            value: batch,
            list: "batches",
            placeholder: "all",
            autocomplete: "off",
            onfocus: offer,
            oninput: typed("batch"),
          }),
        ),
        h("label", {}, "Sort by ", h("select", { onchange: ({ target }) => choose({ sort: target.value }) }, orders)),
      ),
    ),
    batches,
  );
  return { element, count, leave: () => clearTimeout(timer) };

  /** Shows how many jobs have each status. */
  function count(counts) {
    for (const option of options) {
      const number = counts[option.value];
      if (number !== undefined) option.textContent = `${option.value} (${number.toLocaleString()})`;
    }
  }

  async function offer() {
    const answer = await ask(`/batches${query({ limit: MOST_BATCHES })}`).catch(() => null);
    const names = answer?.batches.map((one) => one.batch) ?? [];
    redraw(batches, names, () => names.map((name) => h("option", { value: name })));
  }
}
