// One job: its progress, its transcript with its audio, attempts and files.

import { ask, formats, send } from "./api.js";
import { AGAIN, confirm } from "./confirm.js";
import { advance, bar, calmly, complain, copy, h, redraw } from "./dom.js";
import { EventKind, Status } from "./kinds.js";
import { finder } from "./marks.js";
import { controls } from "./player.js";
import { showLeft } from "./rows.js";
import { names, panel } from "./speakers.js";
import { transcript } from "./transcript.js";
import { clock, joined, plural, size, when } from "./words.js";

const REFRESH_MS = 1000;

export function open(main, { path: [id], asked, from, renamed, status }) {
  const title = h("h1", { tabindex: -1 }, `Job ${id}`),
    head = h("div", { class: "job-head" });
  const audio = h("audio", {
    controls: true,
    preload: "metadata",
    "aria-label": "The recording",
    src: `/api/v1/jobs/${id}/audio`,
  });
  const silent = h(
    "p",
    { class: "facts", hidden: true },
    "The recording is no longer in the inbox, or this browser cannot play it.",
  );
  const estimated = h("span", { hidden: true }, " The times of words are estimated from those of their segments.");
  const legend = h(
    "p",
    { class: "legend", hidden: true },
    h("span", { class: "low" }, "Dotted"),
    " words have a low probability. ",
    h("span", { class: "hearing" }, "Click a word to play it, or move through the text with the arrow keys."),
    estimated,
  );
  const empty = h("p", { class: "empty", hidden: true }),
    more = h("section", { class: "more" });
  const voices = panel(id, { play: (from, to) => text.playPart(from, to), changed: refresh });
  const sought = asked.get("q") ?? "";
  const text = transcript(audio, voices.edit, finder(sought)),
    look = calmly(load, REFRESH_MS),
    follow = calmly(read, REFRESH_MS);
  const tools = controls(audio, text, sought);
  const view = { title: `Job ${id}`, refresh, leave, hear, status: showTime };
  let reached = asked.get("t") === null;
  let hasText = false; // whether there is text to download
  let drawn = null; // the job as last drawn
  let latest = status; // of the daemon

  main.replaceChildren(
    back(from),
    title,
    head,
    h("div", { class: "player" }, audio, tools.element),
    silent,
    voices.element,
    legend,
    text.element,
    tools.back,
    empty,
    more,
  );
  audio.addEventListener("error", () => offerAudio(false));
  audio.addEventListener("loadedmetadata", () => offerAudio(true));
  view.ready = Promise.all([load(), read()]);
  return view;

  function refresh() {
    if (audio.hidden) audio.load(); // the daemon may have been away
    look();
    follow();
  }

  function offerAudio(is) {
    audio.hidden = !is;
    silent.hidden = is;
    main.classList.toggle("silent", !is);
  }

  function hear(events) {
    const mine = events.filter((event) => String(event.job_id) === id);
    const done = mine.findLast(({ kind }) => kind === EventKind.CHUNK_DONE);
    if (done) advance(head, done.data.progress);
    if (mine.length) refresh();
  }

  function showTime(now) {
    latest = now;
    const active = now?.in_work.find((job) => String(job.job_id) === id);
    showLeft(head, active?.left_s ?? null);
  }

  function leave() {
    tools.leave();
    text.leave();
    audio.pause();
    audio.removeAttribute("src");
    audio.load(); // closes the connection
    main.classList.remove("silent");
  }

  async function load() {
    const answers = await Promise.all([ask(`/jobs/${id}`), formats()]).catch(explain);
    if (!answers || !title.isConnected) return;
    const [job, names] = answers;
    view.title = title.textContent = job.path;
    renamed();
    draw({ ...job, formats: names });
    empty.textContent =
      job.status === Status.COMPLETED
        ? "No speech was found."
        : job.finished_at
          ? "No text."
          : "No text yet. It appears here while it is transcribed.";
  }

  function explain(problem) {
    if (problem.status !== 404) return complain(problem);
    empty.textContent = `There is no job ${id}.`;
    for (const part of [head, tools.element, audio, silent, legend, text.element]) part.hidden = true;
    empty.hidden = false;
  }

  async function read() {
    const told = await ask(`/jobs/${id}/transcript`).catch(() => null);
    if (!told || !title.isConnected) return;
    legend.hidden = !told.segments.length;
    hasText = told.segments.length > 0;
    if (drawn) draw(drawn);
    empty.hidden = told.segments.length + told.gaps.length > 0;
    text.element.lang = told.language ?? "";
    text.element.hidden = !empty.hidden;
    voices.show(told);
    tools.element.hidden = !told.segments.length;
    estimated.hidden = told.segments.every((one) => one.words?.length);
    if (!(await text.show(told, names(told)))) return;
    tools.update();
    if (reached || !told.segments.length) return;
    reached = true;
    text.reach(Number(asked.get("t")));
  }

  function draw(details) {
    drawn = details;
    const { attempts_made: attempts, artifacts, incidents, progress, ...job } = details;
    redraw(head, { ...job, downloadable: job.has_transcript || hasText }, heading);
    advance(head, progress);
    showTime(latest);
    redraw(more, { status: job.status, attempts, artifacts, incidents }, history);
  }

  function* heading(job) {
    yield h(
      "p",
      { class: "facts" },
      h("span", { class: `status ${job.status}` }, job.status),
      " ",
      joined(
        job.audio_seconds !== null && clock(job.audio_seconds),
        size(job.bytes),
        job.language,
        job.model,
        job.preset && `preset ${job.preset}`,
        `batch ${job.batch}`,
      ),
      " · ",
      when(job.finished_at ?? job.created_at),
    );
    if (job.status === Status.PROCESSING)
      yield h(
        "p",
        { class: "meter" },
        bar(0, "Progress"),
        h("span", { class: "percent" }),
        h("span", { class: "left" }),
      );
    if (job.error && job.finished_at) {
      yield h("p", { class: "problem" }, job.error);
      if (job.advice) yield h("p", { class: "advice" }, job.advice);
    } else if (job.error)
      yield h("p", { class: "warning" }, `Interrupted, continuing (attempt ${job.attempts + (job.status === Status.PENDING)}). ${job.error}`);
    if (job.warning) yield h("p", { class: "warning" }, job.warning);
    if (job.retry_error)
      yield h("p", { class: "warning" }, `The last retry failed. This is the earlier transcript. ${job.retry_error}`);
    if (job.has_transcript && !job.finished_at)
      yield h("p", { class: "advice" }, "A retry is in progress. This is the earlier transcript.");
    if (job.duplicate_of)
      yield h(
        "p",
        {},
        "Same content as ",
        h("a", { href: `#/job/${job.duplicate_of}` }, `job ${job.duplicate_of}`),
        ".",
      );
    yield h(
      "p",
      { class: "actions" },
      job.finished_at
        ? act(job, "retry", job.has_transcript ? "Transcribe again" : "Try again")
        : act(job, "cancel", "Cancel"),
      job.downloadable &&
        h(
          "span",
          { class: "downloads" },
          "Download",
          job.formats.map((format) => download(job, format)),
        ),
    );
  }

  function act(job, wish, label) {
    const again = wish === "retry" && job.has_transcript;
    const doing = async () => {
      if (again && !(await confirm("Transcribe this file again?", AGAIN, "Transcribe again"))) return;
      await send(`/jobs/${job.job_id}/${wish}`).catch(complain);
      await load();
    };
    return h("button", { type: "button", class: "quiet", onclick: doing }, label);
  }
}

const download = (job, format) =>
  h("a", { href: `/api/v1/jobs/${job.job_id}/transcript?format=${format}`, download: "" }, format);

function back(from) {
  const search = from?.startsWith("#/search");
  return h(
    "p",
    { class: "back" },
    h("a", { href: search || from?.startsWith("#/jobs") ? from : "#/jobs" }, search ? "← Search" : "← Queue"),
  );
}

function* history({ status, attempts, artifacts, incidents }) {
  if (attempts.length > 1 || status === Status.FAILED) {
    yield h("h2", {}, plural(attempts.length, "attempt"));
    yield h(
      "ol",
      {},
      attempts.map((one) =>
        h(
          "li",
          {},
          when(one.started_at),
          ` ${joined(one.outcome ?? "in progress", one.device, one.model)}`,
          one.error && h("small", {}, one.error),
        ),
      ),
    );
  }
  if (incidents.length) {
    yield h("h2", {}, "Incidents");
    yield h(
      "ul",
      {},
      incidents.map((one) => h("li", {}, when(one.at), ` ${one.error}`, h("small", {}, one.action))),
    );
  }
  if (artifacts.length) {
    yield h("h2", {}, "Files written");
    yield h(
      "ul",
      {},
      artifacts.map(({ outbox, path }) => written(`${outbox}/${path}`)),
    );
  }
}

const written = (path) =>
  h(
    "li",
    { class: "written" },
    h("code", {}, path),
    h(
      "button",
      { type: "button", class: "quiet", "aria-label": `Copy the path ${path}`, onclick: () => copy(path, path) },
      "Copy path",
    ),
  );
