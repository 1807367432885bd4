// The page: one view, chosen by the address, a side panel, and live updates.

import { ask, listen, send } from "./api.js";
import { byId, calmly, complain, tell } from "./dom.js";
import { EventKind, PauseKind, isAboutRecorder } from "./kinds.js";
import * as job from "./job.js";
import * as people from "./people.js";
import * as queue from "./queue.js";
import * as recorder from "./recorder.js";
import * as search from "./search.js";
import * as side from "./side.js";
import * as upload from "./upload.js";
import { plural } from "./words.js";

const VIEWS = { jobs: queue, job, search, people };
const LOOK_MS = 1000,
  LOOK_ANYWAY_MS = 15000;
const NEWS = {
  [EventKind.JOB_FAILED]: (event) => `Failed: ${event.data.path ?? `job ${event.job_id}`}: ${event.data.error ?? ""}`,
  [EventKind.BATCH_COMPLETED]: (event) => `Batch ${event.data.batch} is done: ${plural(event.data.total, "file")}`,
  [EventKind.JOB_RETRY_FAILED]: (event) =>
    `Retry failed, the earlier transcript is kept: ${event.data.path ?? `job ${event.job_id}`}: ${event.data.error ?? ""}`,
  [EventKind.QUEUE_PAUSED]: (event) => `Paused: ${event.data.reason}`,
  [EventKind.QUEUE_RESUMED]: () => "Work resumed",
};
let view = null,
  status = null,
  here = null;

/** Scroll position and focused link of each entry of the browser's history. */
const places = new Map();
history.scrollRestoration = "manual";

function route() {
  const [path, question] = location.hash.slice(2).split("?");
  const [name, ...rest] = (path || "jobs").split("/");
  const wanted = VIEWS[name] ?? queue;
  view?.leave?.();
  byId("problem").hidden = true;
  view = wanted.open(byId("main"), {
    path: rest.map(decodeURIComponent),
    asked: new URLSearchParams(question),
    status,
    from: here,
    renamed: entitle,
  });
  here = location.hash;
  for (const link of document.querySelectorAll("nav [data-view]")) {
    if (VIEWS[link.dataset.view] === wanted) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  entitle();
}

/** Open the view of the address. Going back restores the scroll position and the focus. */
async function move({ oldURL }) {
  here = new URL(oldURL).hash; // a view may have changed it without opening another
  places.set(here, { top: lastTop, link: document.activeElement?.getAttribute("href") });
  const back = history.state?.been ? places.get(location.hash) : null;
  history.replaceState({ ...history.state, been: true }, "");
  route();
  scrollTo(0, 0);
  byId("main").querySelector("h1").focus({ preventScroll: true });
  if (!back) return;
  const opened = view;
  await view.ready;
  if (view !== opened) return;
  scrollTo(0, back.top);
  [...byId("main").querySelectorAll("a")]
    .find((link) => link.getAttribute("href") === back.link)
    ?.focus({ preventScroll: true });
}

let lastTop = 0;
addEventListener(
  "scroll",
  () => {
    lastTop = scrollY;
  },
  { passive: true },
);

function entitle() {
  const left = status ? status.counts.pending + status.counts.processing : 0;
  document.title = `${left ? `(${left.toLocaleString()}) ` : ""}${view.title} – speakeasyd`;
}

function show(now) {
  status = now;
  side.warn(byId("alerts"), now);
  side.show(byId("side"), now);
  upload.offer(now);
  view.status?.(now);
  recorder.offer(now.recorder);
  const paused = now.paused_by.some(({ kind }) => kind === PauseKind.PERSON);
  byId("pause").textContent = paused ? "Resume" : "Pause";
  byId("pause").dataset.wish = paused ? "resume" : "pause";
  entitle();
}

const look = calmly(async () => {
  try {
    show(await ask("/status"));
  } catch {
    /* the banner shows that the connection is lost */
  }
}, LOOK_MS);

listen({
  connected: (is) => {
    const returned = is && !byId("banner").hidden;
    byId("banner").textContent = is ? "" : "The connection to the daemon is lost. Reconnecting.";
    byId("banner").hidden = is;
    if (!returned) return;
    byId("problem").hidden = true;
    look();
    view.refresh?.();
  },
  snapshot: (now) => {
    show(now);
    view.refresh?.();
  },
  events: (events) => {
    for (const event of events) {
      if (isAboutRecorder(event.kind)) recorder.hear(event);
      if (NEWS[event.kind]) tell(NEWS[event.kind](event));
    }
    view.hear?.(events);
    if (events.some((event) => event.kind !== EventKind.RECORDER_LEVEL)) look();
  },
});

byId("pause").addEventListener("click", ({ target }) => send(`/${target.dataset.wish}`).then(look, complain));
byId("problem")
  .querySelector("button")
  .addEventListener("click", () => {
    byId("problem").hidden = true;
  });
addEventListener("hashchange", move);
history.replaceState({ ...history.state, been: true }, "");
route();
setInterval(look, LOOK_ANYWAY_MS);
