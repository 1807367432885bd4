// The queue: jobs, their progress and the estimated time left. Only one page of it is in the document.

import { ask, query, send } from "./api.js";
import { advance, bar, calmly, complain, h, keep, redraw, tell } from "./dom.js";
import { EventKind, Status, isAboutJob } from "./kinds.js";
import * as upload from "./upload.js";
import { clock, joined, plural, span, when } from "./words.js";

const PAGE = 50,
  REFRESH_MS = 700,
  TYPING_MS = 250;
const STATUSES = Object.values(Status);
const CANCEL = { path: "cancel", label: "Cancel all of these", done: "Cancelled" };
const RETRY = { path: "retry", label: "Retry all of these", done: "In the queue again" };
const BULK = {
  [Status.PENDING]: CANCEL,
  [Status.PROCESSING]: CANCEL,
  [Status.FAILED]: RETRY,
  [Status.CANCELLED]: RETRY,
};

export function open(main, { asked, status }) {
  const filter = { status: asked.get("status"), batch: asked.get("batch"), q: asked.get("q") };
  const before = asked.get("before");
  let pages = history.state?.pages ?? (before ? [null, before] : [null]); // the `before` of each page so far
  let rows = new Map(),
    working = new Map(),
    next = null,
    turn = 0,
    typing = null,
    latest = null;

  const summary = h("div", { class: "summary" });
  const atWork = h("ul", { class: "jobs at-work", "aria-label": "In progress" });
  const list = h("ul", { class: "jobs", "aria-label": "Jobs" });
  const empty = h("p", { class: "empty", hidden: true });
  const newer = h("button", { type: "button", class: "quiet", onclick: () => turnTo(pages.slice(0, -1)) }, "Newer");
  const older = h("button", { type: "button", class: "quiet", onclick: () => turnTo([...pages, next]) }, "Older");
  const number = h("span", { class: "facts" });
  const all = h("p", { class: "actions" });
  const pager = h("nav", { class: "pager", "aria-label": "Pages of the queue", hidden: true }, newer, number, older);
  const options = [
    h("option", { value: "" }, "all"),
    ...STATUSES.map((name) => h("option", { value: name, selected: name === filter.status }, name)),
  ];

  const filters = h(
    "form",
    { class: "filters", role: "search", "aria-label": "Filter the queue", onsubmit: (event) => event.preventDefault() },
    h("label", {}, "Status ", h("select", { onchange: ({ target }) => choose({ status: target.value }) }, options)),
    h(
      "label",
      { class: "wide" },
      "Path ",
      h("input", { type: "search", value: filter.q, placeholder: "part of the path", oninput: typed }),
    ),
    filter.batch &&
      h(
        "p",
        { class: "chip" },
        `Batch ${filter.batch} `,
        h(
          "a",
          { href: `#/jobs${query({ ...filter, batch: null })}`, "aria-label": `All batches, not only ${filter.batch}` },
          "×",
        ),
      ),
  );
  main.replaceChildren(
    h("h1", { class: "unseen", tabindex: -1 }, "Queue"),
    summary,
    upload.form,
    atWork,
    filters,
    all,
    list,
    empty,
    pager,
  );

  const refresh = calmly(load, REFRESH_MS);
  if (status) show(status);
  return {
    title: "Queue",
    status: show,
    refresh,
    hear,
    ready: load().catch(complain),
    leave: () => clearTimeout(typing),
  };

  async function load() {
    const mine = ++turn;
    const page = await ask(`/jobs${query({ ...filter, before: pages.at(-1), limit: PAGE })}`).catch(() => null);
    if (page && mine === turn) fill(page);
  }

  function fill(page) {
    next = page.next;
    rows = keep(list, page.jobs, (job) => job.job_id, row);
    empty.hidden = page.jobs.length > 0;
    const filtered = Object.values(filter).some(Boolean);
    filters.hidden = !filtered && !page.jobs.length;
    empty.textContent = filtered ? "No matching jobs." : "No jobs yet. Drop files on this page or into the inbox.";
    redraw(all, { status: filter.status, some: page.jobs.length > 0 }, offered);
    newer.disabled = pages.length === 1;
    older.disabled = next === null;
    pager.hidden = newer.disabled && older.disabled;
    number.textContent = `Page ${pages.length.toLocaleString()}`;
    if (latest) show(latest);
  }

  async function turnTo(wanted) {
    pages = wanted;
    history.pushState({ been: true, pages }, "", `#/jobs${query({ ...filter, before: pages.at(-1) })}`);
    await load();
    list.scrollIntoView({ block: "start" });
    list.querySelector("a")?.focus({ preventScroll: true });
  }

  function typed({ target }) {
    clearTimeout(typing);
    typing = setTimeout(() => choose({ q: target.value.trim() }, "replaceState"), TYPING_MS);
  }

  function choose(changes, way = "pushState") {
    Object.assign(filter, changes);
    pages = [null];
    history[way]({ been: true }, "", `#/jobs${query(filter)}`);
    load();
  }

  function show(now) {
    latest = now;
    redraw(
      summary,
      { counts: now.counts, paused_by: now.paused_by, speed: now.speed, left_s: now.left_s, progress: now.progress },
      summed,
    );
    const hidden = now.in_work.filter((job) => !rows.has(job.job_id));
    working = keep(
      atWork,
      hidden,
      (job) => job.job_id,
      (job) => row({ ...job, status: Status.PROCESSING, finished_at: null }),
    );
    for (const option of options) {
      const count = now.counts[option.value];
      if (count !== undefined) option.textContent = `${option.value} (${count.toLocaleString()})`;
    }
  }

  function hear(events) {
    for (const { kind, job_id: id, data } of events) {
      if (kind !== EventKind.CHUNK_DONE) continue;
      advance(rows.get(id) ?? working.get(id), data.progress);
    }
    if (events.some(({ kind }) => isAboutJob(kind))) refresh();
  }

  /** What can be done with all jobs that match the filters. */
  function* offered({ status: wanted, some }) {
    const wish = BULK[wanted];
    if (!some || !wish) return;
    const doing = async () => {
      const changed = await send(`/jobs/${wish.path}${query(filter)}`).catch(complain);
      if (changed) tell(`${wish.done}: ${plural(changed.jobs.length, "job")}`);
      load();
    };
    yield h("button", { type: "button", class: "quiet", onclick: doing }, wish.label);
  }
}

function* summed({ counts, speed, left_s: seconds, paused_by: pauses, progress }) {
  const left = counts.pending + counts.processing;
  yield h("p", { class: "big" }, left ? `${plural(left, "file")} to go` : outcome(counts));
  if (left && progress !== null) yield bar(progress, "Progress of all unfinished batches", { class: "overall" });
  yield h(
    "p",
    { class: "facts" },
    joined(
      left && seconds && `about ${span(seconds)} left`,
      left && speed && !pauses.length && `${speed < 10 ? speed.toFixed(1) : Math.round(speed)}× real time`,
      counts.completed && `${counts.completed.toLocaleString()} done`,
    ),
    left > 0 && counts.failed > 0 && [" · ", failures(counts)],
  );
  for (const { reason, ends_by_itself: ends } of pauses) {
    yield h(
      "p",
      { class: "pause" },
      `Paused: ${reason}${ends ? ". Work resumes when the cause is removed" : ""}`,
    );
  }
}

function outcome(counts) {
  if (counts.failed) return ["Done, ", failures(counts)];
  return counts.completed ? "All files are done" : "Ready for files";
}

const failures = ({ failed }) =>
  h("a", { href: `#/jobs${query({ status: Status.FAILED })}` }, `${failed.toLocaleString()} failed`);

function row(job) {
  return h(
    "li",
    {},
    h(
      "a",
      { href: `#/job/${job.job_id}` },
      h("span", { class: "path" }, named(job.path)),
      h("span", { class: `status ${job.status}` }, job.status),
      job.status === Status.PROCESSING
        ? h("span", { class: "meter" }, bar(0, `Progress of ${job.path}`), h("span", { class: "percent" }))
        : h("span", { class: "about", title: job.error }, about(job)),
      when(job.finished_at ?? job.started_at ?? job.created_at),
    ),
  );
}

function about(job) {
  if (job.status === Status.PENDING && Date.parse(job.available_at) > Date.now())
    return ["retry at ", when(job.available_at)];
  return (
    job.error ??
    joined(job.audio_seconds !== null && clock(job.audio_seconds), job.language, job.warning && "with a warning")
  );
}

function named(path) {
  const cut = path.lastIndexOf("/") + 1;
  return [cut > 0 && h("span", { class: "folder" }, path.slice(0, cut)), path.slice(cut)];
}
