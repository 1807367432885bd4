// The queue: jobs, their progress and the estimated time left. Only one page of it is in the document.

import { ask, query } from "./api.js";
import { advance, calmly, complain, h, keep, redraw } from "./dom.js";
import { NEWEST, filters } from "./filters.js";
import { EventKind, Status, isAboutJob } from "./kinds.js";
import { row, showLeft } from "./rows.js";
import { selection } from "./selection.js";
import { summed } from "./summary.js";
import * as upload from "./upload.js";

const PAGE = 50,
  REFRESH_MS = 700;

export function open(main, { asked, status }) {
  const filter = { status: asked.get("status"), batch: asked.get("batch"), q: asked.get("q") };
  let sort = asked.get("sort"),
    page = Math.max(1, Number.parseInt(asked.get("page"), 10) || 1);
  let rows = new Map(),
    working = new Map(),
    turn = 0,
    latest = null;

  const summary = h("div", { class: "summary" });
  const atWork = h("ul", { class: "jobs at-work", "aria-label": "In progress" });
  const list = h("ul", { class: "jobs", "aria-label": "Jobs" });
  const empty = h("p", { class: "empty", hidden: true });
  const before = h("button", { type: "button", class: "quiet", onclick: () => turnTo(page - 1) }, "Previous");
  const after = h("button", { type: "button", class: "quiet", onclick: () => turnTo(page + 1) }, "Next");
  const number = h("span", { class: "facts" });
  const pager = h("nav", { class: "pager", "aria-label": "Pages of the queue", hidden: true }, before, number, after);
  const narrowing = filters({ ...filter, sort }, choose);
  const picked = selection(filter, () => load());

  main.replaceChildren(
    h("h1", { class: "unseen", tabindex: -1 }, "Queue"),
    summary,
    upload.form,
    atWork,
    narrowing.element,
    picked.head,
    list,
    empty,
    pager,
    picked.bar,
  );

  const refresh = calmly(load, REFRESH_MS);
  if (status) show(status);
  return {
    title: "Queue",
    status: show,
    refresh,
    hear,
    ready: load().catch(complain),
    leave: narrowing.leave,
  };

  /** The address of the queue as it is shown. */
  function address() {
    return `#/jobs${query({ ...filter, sort, page: page > 1 ? page : null })}`;
  }

  async function load() {
    const mine = ++turn;
    const asked = { ...filter, sort, offset: (page - 1) * PAGE, limit: PAGE };
    const answer = await ask(`/jobs${query(asked)}`).catch((problem) => problem.status === 422 && complain(problem));
    if (answer && mine === turn) return fill(answer);
  }

  async function fill({ jobs, total }) {
    const pages = Math.max(1, Math.ceil(total / PAGE));
    if (page > pages) {
      page = pages;
      history.replaceState({ been: true }, "", address());
      return load();
    }
    rows = keep(list, jobs, (job) => job.job_id, (job) => row(job, picked.box(job)));
    picked.show(jobs, total);
    empty.hidden = jobs.length > 0;
    const filtered = Object.values(filter).some(Boolean);
    narrowing.element.hidden = !filtered && !jobs.length;
    redraw(empty, filtered, explained);
    before.disabled = page === 1;
    after.disabled = page === pages;
    pager.hidden = pages === 1;
    number.textContent = `Page ${page.toLocaleString()} of ${pages.toLocaleString()}`;
    if (latest) show(latest);
  }

  async function turnTo(wanted) {
    page = wanted;
    history.pushState({ been: true }, "", address());
    await load();
    list.scrollIntoView({ block: "start" });
    list.querySelector("a")?.focus({ preventScroll: true });
  }

  function choose({ sort: order = sort, ...changes }, typing = false) {
    Object.assign(filter, changes);
    sort = order === NEWEST ? null : order;
    page = 1;
    if (Object.keys(changes).length) picked.clear();
    history[typing ? "replaceState" : "pushState"]({ been: true }, "", address());
    load();
  }

  function show(now) {
    latest = now;
    redraw(
      summary,
      { counts: now.counts, paused_by: now.paused_by, speed: now.speed, left_s: now.left_s, progress: now.progress },
      summed,
    );
    const hidden = now.in_work
      .filter((job) => !rows.has(job.job_id))
      .map(({ left_s: _, ...job }) => ({ ...job, status: Status.PROCESSING, finished_at: null }));
    working = keep(
      atWork,
      hidden,
      (job) => job.job_id,
      (job) => row(job),
    );
    for (const { job_id: id, left_s: left } of now.in_work) showLeft(rows.get(id) ?? working.get(id), left);
    narrowing.count(now.counts);
  }

  function hear(events) {
    for (const { kind, job_id: id, data } of events) {
      if (kind !== EventKind.CHUNK_DONE) continue;
      advance(rows.get(id) ?? working.get(id), data.progress);
    }
    if (events.some(({ kind }) => isAboutJob(kind))) refresh();
  }
}

function* explained(filtered) {
  if (!filtered) yield "No jobs yet. Drop files on this page or into the inbox.";
  else yield* ["No matches. ", h("a", { href: "#/jobs" }, "Show all files")];
}
