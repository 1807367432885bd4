// The queue: what is there, how far it is, how long it will take. Never more than a page of it is in the document.

import { ask, query } from "./api.js";
import { bar, byId, clock, h, plural, seldom, span, when } from "./dom.js";
import { choose } from "./upload.js";

const PAGE = 50, IN_WORK = 4;
const STATUSES = ["pending", "processing", "completed", "failed", "cancelled", "skipped"];

export function open(main, _rest, asked, status) {
  const filter = { status: asked.get("status"), batch: asked.get("batch"), q: asked.get("q") };
  const pages = [null];  // the `before` of each page so far
  const rows = new Map(), working = new Map();
  const summary = h("div", { class: "summary" });
  const inWork = h("ul", { class: "jobs", "aria-label": "At work" });
  const list = h("ul", { class: "jobs" });
  const pager = h("p", { class: "pager" });
  const empty = h("p", { class: "empty", hidden: true });

  const refresh = seldom(700, async () => {
    const page = await ask(`/jobs${query({ ...filter, before: pages.at(-1), limit: PAGE })}`).catch(() => null);
    if (page) fill(page);
  });

  function fill({ jobs, next }) {
    rows.clear();
    list.replaceChildren(...jobs.map((job) => {
      const item = row(job);
      rows.set(job.job_id, item);
      return item;
    }));
    empty.hidden = jobs.length > 0;
    empty.textContent = Object.values(filter).some(Boolean)
      ? "Nothing like that." : "Nothing here yet. Drop audio or video anywhere on this page, or into the inbox.";
    pager.replaceChildren(
      h("button", { type: "button", class: "quiet", disabled: pages.length === 1, onclick: () => { pages.pop(); refresh(); } }, "Newer"),
      h("button", { type: "button", class: "quiet", disabled: !next, onclick: () => { pages.push(next); refresh(); } }, "Older"));
    pager.hidden = pages.length === 1 && !next;
  }

  function go(changes) {
    location.hash = `#/jobs${query({ ...filter, ...changes })}`;
  }

  function show(now) {
    summary.replaceChildren(...overall(now));
    working.clear();
    inWork.replaceChildren(...now.in_work.slice(0, IN_WORK).map((job) => {
      const item = row({ ...job, status: "processing", created_at: job.started_at, finished_at: null });
      working.set(job.job_id, item);
      return item;
    }));
    for (const option of byId("status").options) {
      const count = now.counts[option.value];
      if (count !== undefined) option.textContent = `${option.value} (${count.toLocaleString()})`;
    }
  }

  main.replaceChildren(
    h("h1", { class: "unseen" }, "Queue"),
    summary, inWork,
    h("section", { class: "hand-in", "aria-label": "Hand in" },
      h("p", {}, "Drop audio or video anywhere on this page, or "),
      h("button", { type: "button", onclick: () => choose(false) }, "Choose files"),
      h("button", { type: "button", class: "quiet", onclick: () => choose(true) }, "A folder")),
    h("div", { id: "uploads", role: "status" }),
    h("form", { class: "filters", role: "search", "aria-label": "Filter the queue", onsubmit: (event) => event.preventDefault() },
      h("label", {}, "Status ",
        h("select", { id: "status", onchange: ({ target }) => go({ status: target.value }) },
          h("option", { value: "" }, "all"),
          STATUSES.map((name) => h("option", { value: name, selected: name === filter.status }, name)))),
      h("label", {}, "Path ",
        h("input", { type: "search", value: filter.q, placeholder: "part of a name", onchange: ({ target }) => go({ q: target.value }) })),
      filter.batch && h("span", { class: "chip" }, `batch ${filter.batch} `,
        h("button", { type: "button", class: "bare", "aria-label": `All batches, not only ${filter.batch}`, onclick: () => go({ batch: "" }) }, "×"))),
    list, empty, pager);
  if (status) show(status);
  refresh();

  return {
    title: "Queue",
    status: show,
    refresh,
    hear(events) {
      for (const event of events) {
        if (event.kind !== "chunk.done") continue;
        for (const item of [rows.get(event.job_id), working.get(event.job_id)]) {
          const progress = item?.querySelector("progress");
          if (progress) progress.value = event.data.progress;
        }
      }
      if (events.some((event) => event.kind.startsWith("job."))) refresh();
    },
  };
}

function* overall({ counts, speed, left_s, pauses }) {
  const left = counts.pending + counts.processing;
  yield h("p", { class: "big" }, left ? `${plural(left, "file")} to go` : "Everything is done");
  const facts = [
    left && left_s && `about ${span(left_s)} left`,
    speed && left && `${speed < 10 ? speed.toFixed(1) : Math.round(speed)} times as fast as speech`,
    counts.completed && `${counts.completed.toLocaleString()} done`,
    counts.failed && `${counts.failed.toLocaleString()} failed`,
  ].filter(Boolean);
  yield h("p", { class: "facts" }, facts.join(" · "));
  for (const reason of Object.values(pauses)) yield h("p", { class: "pause" }, `Paused: ${reason}`);
}

function row(job) {
  const running = job.status === "processing";
  return h("li", {},
    h("a", { href: `#/job/${job.job_id}` },
      h("span", { class: "path" }, ...named(job.path)),
      h("span", { class: `status ${job.status}` }, job.status),
      running ? bar(job.progress, `How far ${job.path} is`)
        : h("span", { class: "about", title: job.error }, job.error ?? [job.audio_seconds !== null && clock(job.audio_seconds), job.language].filter(Boolean).join(" · ")),
      when(job.finished_at ?? job.created_at)));
}

function named(path) {
  const cut = path.lastIndexOf("/") + 1;
  return [cut > 0 && h("span", { class: "folder" }, path.slice(0, cut)), path.slice(cut)];
}
