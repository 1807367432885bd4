// The page: one view at a time by the address, the machine beside it, and what happens as it happens.

import { ask, listen, send } from "./api.js";
import { byId, plural, seldom, tell } from "./dom.js";
import * as job from "./job.js";
import * as queue from "./queue.js";
import * as recorder from "./recorder.js";
import * as search from "./search.js";
import * as side from "./side.js";
import "./upload.js";

const VIEWS = { jobs: queue, job, search };
let view = null;
let status = null;

function route() {
  const [path, question] = location.hash.slice(2).split("?");
  const [name, ...rest] = (path || "jobs").split("/");
  const wanted = VIEWS[name] ?? queue;
  view?.leave?.();
  view = wanted.open(byId("main"), rest.map(decodeURIComponent), new URLSearchParams(question), status);
  document.title = `${view.title} – speakeasyd`;
  for (const link of document.querySelectorAll("nav [data-view]")) {
    if (VIEWS[link.dataset.view] === wanted) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
}

function show(now) {
  status = now;
  side.show(byId("side"), now);
  view?.status?.(now);
  recorder.offer(now.recorder);
  const paused = "person" in now.pauses;
  byId("pause").textContent = paused ? "Resume" : "Pause";
  byId("pause").dataset.wish = paused ? "resume" : "pause";
  const left = now.counts.pending + now.counts.processing;
  document.title = `${left ? `(${left}) ` : ""}${view.title} – speakeasyd`;
}

const look = seldom(1000, async () => {
  try { show(await ask("/status")); } catch { /* the banner tells that the connection is lost */ }
});

function say(banner) {
  byId("banner").textContent = banner;
  byId("banner").hidden = !banner;
}

const NEWS = {
  "job.failed": (event) => `Failed: ${event.data.error ?? `job ${event.job_id}`}`,
  "batch.completed": (event) => `The batch ${event.data.batch} is done: ${plural(event.data.total, "file")}`,
  "queue.paused": (event) => `Paused: ${event.data.reason}`,
  "queue.resumed": () => "Work goes on",
};

listen({
  connected: (is) => say(is ? "" : "The connection to the daemon is lost; trying again."),
  snapshot: (now) => { show(now); view?.refresh?.(); },
  events: (events) => {
    for (const event of events) {
      if (event.kind.startsWith("recorder.")) recorder.hear(event);
      if (NEWS[event.kind]) tell(NEWS[event.kind](event));
    }
    view?.hear?.(events);
    if (events.some((event) => event.kind !== "recorder.level")) look();
  },
});

byId("pause").addEventListener("click", async ({ target }) => {
  await send(`/${target.dataset.wish}`);
  look();
});
addEventListener("hashchange", () => { route(); byId("main").focus({ preventScroll: true }); scrollTo(0, 0); });
route();
setInterval(look, 15000);
