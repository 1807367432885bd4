// One job: its text beside its sound. The word being spoken is lit; a click on a word plays it.

import { ask, send } from "./api.js";
import { bar, clock, h, plural, seldom, size, when } from "./dom.js";

const FORMATS = ["txt", "srt", "vtt", "docx", "md", "json", "tsv", "lrc"];
const UNSURE = 0.5;  // probability of a word below which it is marked
const GUESSED = -0.8;  // the same for a segment without words: its mean log-probability
const AUDIO = { preload: "metadata", controls: true };

export function open(main, [id], asked) {
  const head = h("div", { class: "job-head" });
  const audio = h("audio", { ...AUDIO, "aria-label": "The recording" });
  const text = h("div", { class: "transcript", lang: "", tabindex: 0, "aria-label": "Transcript" });
  const legend = h("p", { class: "legend" }, h("span", { class: "low" }, "Underlined"), " words are unsure. Click a word to hear it.");
  const more = h("section", { class: "more" });
  const sound = h("p", { class: "facts", hidden: true }, "The recording is not in the inbox any more, or this browser cannot play it.");
  let starts = [], spans = [], lit = null, shown = 0, begun = false, frame = null;
  const view = { title: `Job ${id}`, refresh: seldom(1000, load), leave, hear };

  main.replaceChildren(h("p", { class: "back" }, h("a", { href: "#/jobs" }, "← Queue")), head, audio, sound, legend, text, more);
  audio.src = `/api/v1/jobs/${id}/audio`;
  audio.onerror = () => { audio.hidden = true; sound.hidden = false; };
  audio.onplay = follow;
  audio.onseeked = light;
  text.addEventListener("click", ({ target }) => {
    const at = target.closest("[data-at]")?.dataset.at;
    if (at !== undefined && !audio.hidden && String(getSelection()) === "") play(Number(at));
  });
  load();
  return view;

  function play(at) {
    audio.currentTime = at;
    audio.play().catch(() => {});
  }

  function hear(events) {
    if (events.some((event) => String(event.job_id) === id)) view.refresh();
  }

  function leave() {
    audio.pause();
    audio.removeAttribute("src");
    cancelAnimationFrame(frame);
  }

  async function load() {
    let job, told;
    try {
      [job, told] = await Promise.all([ask(`/jobs/${id}`), ask(`/jobs/${id}/transcript`)]);
    } catch (problem) {
      head.replaceChildren(h("h1", {}, `Job ${id}`), h("p", { class: "problem" }, problem.message, " ", problem.hint));
      return;
    }
    view.title = job.path;
    document.title = `${job.path} – speakeasyd`;
    head.replaceChildren(...heading(job, view.refresh));
    if (told.segments.length < shown || job.status === "completed") { text.replaceChildren(); starts = []; spans = []; shown = 0; lit = null; }
    text.lang = told.language ?? "";
    extend(told);
    legend.hidden = !told.segments.length;
    if (!told.segments.length) text.replaceChildren(h("p", { class: "empty" }, job.status === "completed" ? "No speech was found." : job.finished_at ? "No text." : "No text yet."));
    more.replaceChildren(...history(job));
    if (!begun && asked.get("t") !== null && starts.length) reach(Number(asked.get("t")));
    begun = true;
  }

  function extend(told) {
    if (!shown) text.replaceChildren();
    const gaps = told.gaps.map((gap) => ({ ...gap, gap: true }));
    const pieces = [...told.segments.slice(shown), ...(shown ? [] : gaps)].sort((one, other) => one.start - other.start);
    text.append(...pieces.map((piece) => (piece.gap ? missing(piece) : segment(piece))));
    shown = told.segments.length;
  }

  function segment(piece) {
    const words = piece.words.length ? piece.words : [{ start: piece.start, text: piece.text, probability: piece.avg_logprob < GUESSED ? 0 : 1 }];
    const spoken = words.map((word) => {
      const node = h("span", { "data-at": word.start, class: word.probability < UNSURE ? "low" : null }, word.text.trimStart());
      starts.push(word.start);
      spans.push(node);
      return word.text.startsWith(" ") ? [" ", node] : [node];
    });
    const who = piece.channel === null ? null : h("b", {}, piece.channel === 0 ? "Left: " : piece.channel === 1 ? "Right: " : `Channel ${piece.channel + 1}: `);
    return h("p", {}, h("button", { type: "button", class: "at", "data-at": piece.start, "aria-label": `Play from ${clock(piece.start)}` }, clock(piece.start)), h("span", {}, who, spoken));
  }

  function missing(gap) {
    return h("p", { class: "gap" }, h("span", { class: "at" }, clock(gap.start)), `not transcribed, until ${clock(gap.end)}`);
  }

  function follow() {
    light();
    if (!audio.paused) frame = requestAnimationFrame(follow);
  }

  /** Light the last word that has begun: by halving, since there may be a hundred thousand. */
  function light() {
    let low = 0, high = starts.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (starts[middle] <= audio.currentTime + 0.02) low = middle + 1;
      else high = middle;
    }
    const now = spans[low - 1] ?? null;
    if (now === lit) return;
    lit?.classList.remove("lit");
    now?.classList.add("lit");
    if (now && !audio.paused) now.scrollIntoView({ block: "nearest" });
    lit = now;
  }

  function reach(at) {
    audio.currentTime = at;
    light();
    lit?.scrollIntoView({ block: "center" });
    lit?.classList.add("lit");
  }
}

function* heading(job, refresh) {
  const act = (wish, label) => h("button", { type: "button", class: "quiet", onclick: () => send(`/jobs/${job.job_id}/${wish}`).then(refresh, refresh) }, label);
  const ended = job.finished_at !== null;
  yield h("h1", {}, job.path);
  yield h("p", { class: "facts" },
    h("span", { class: `status ${job.status}` }, job.status), " ",
    [job.audio_seconds !== null && clock(job.audio_seconds), size(job.bytes), job.language, job.model, job.preset && `preset ${job.preset}`].filter(Boolean).join(" · "), " · ", when(job.finished_at ?? job.created_at));
  if (job.status === "processing") yield bar(job.progress, "How far it is");
  if (job.error) yield h("p", { class: "problem" }, job.error);
  if (job.advice) yield h("p", {}, job.advice);
  if (job.warning) yield h("p", { class: "warning" }, job.warning);
  yield h("p", { class: "actions" }, ended ? act("retry", "Try again") : act("cancel", "Cancel"),
    h("span", { class: "downloads" }, "Download ", FORMATS.map((format) => [h("a", { href: `/api/v1/jobs/${job.job_id}/transcript?format=${format}`, download: "" }, format), " "])));
}

function* history(job) {
  if (job.attempts_made.length > 1 || job.status === "failed") {
    yield h("h2", {}, plural(job.attempts_made.length, "attempt"));
    yield h("ul", {}, job.attempts_made.map((one) => h("li", {}, when(one.started_at), ` ${one.outcome ?? "under way"}${one.error ? `: ${one.error}` : ""}`)));
  }
  if (job.incidents.length) {
    yield h("h2", {}, "What went wrong meanwhile");
    yield h("ul", {}, job.incidents.map((one) => h("li", {}, when(one.at), ` ${one.error}; ${one.action}`)));
  }
  if (job.artifacts.length) {
    yield h("h2", {}, "Written");
    yield h("ul", {}, job.artifacts.map((one) => h("li", {}, h("code", {}, `${one.outbox}/${one.path}`))));
  }
}
