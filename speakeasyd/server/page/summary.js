// The head of the queue: how much is to do, how long it takes, why work is paused.

import { query } from "./api.js";
import { bar, h } from "./dom.js";
import { Status } from "./kinds.js";
import { joined, plural, span } from "./words.js";

export function* summed({ counts, speed, left_s: seconds, paused_by: pauses, progress }) {
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
    yield h("p", { class: "pause" }, `Paused: ${reason}${ends ? ". Work resumes when the cause is removed" : ""}`);
  }
}

function outcome(counts) {
  if (counts.failed) return ["Done, ", failures(counts)];
  return counts.completed ? "All files are done" : "Ready for files";
}

const failures = ({ failed }) =>
  h("a", { href: `#/jobs${query({ status: Status.FAILED })}` }, `${failed.toLocaleString()} failed`);
