// One job as a row of the queue.

import { bar, h } from "./dom.js";
import { Status } from "./kinds.js";
import { clock, joined, span, when } from "./words.js";

/** `box`: the checkbox that selects the job, or null. */
export function row(job, box = null) {
  const active = job.status === Status.PROCESSING;
  return h(
    "li",
    {},
    box && h("label", { class: "pick" }, box),
    h(
      "a",
      { href: `#/job/${job.job_id}` },
      h("span", { class: "path" }, named(job.path)),
      h("span", { class: `status ${job.status}` }, job.status),
      active
        ? h("span", { class: "meter" }, bar(0, `Progress of ${job.path}`), h("span", { class: "percent" }))
        : h("span", { class: "about" }, about(job)),
      active
        ? h("span", { class: "left" })
        : when(job.finished_at ?? job.started_at ?? job.created_at),
      job.error && h("span", { class: "error", title: job.error }, job.error),
    ),
  );
}

/** Shows how long a job that is in progress still takes; null: it is not known, or work is paused. */
export function showLeft(node, seconds) {
  const left = node?.querySelector(".left");
  if (left) left.textContent = seconds === null ? "" : `${span(seconds)} left`;
}

function about(job) {
  if (job.status === Status.PENDING && Date.parse(job.available_at) > Date.now())
    return ["retry at ", when(job.available_at)];
  if (job.error) return "";
  const length = job.audio_seconds ?? job.container_seconds;
  return joined(length !== null && clock(length), job.language, job.warning && "with a warning");
}

function named(path) {
  const cut = path.lastIndexOf("/") + 1;
  return [cut > 0 && h("span", { class: "folder" }, path.slice(0, cut)), path.slice(cut)];
}
