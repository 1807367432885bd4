// The selected jobs of the queue, and what can be done with them.

import { BASE, Problem, ask, formats, query, send } from "./api.js";
import { AGAIN, confirm } from "./confirm.js";
import { complain, h, tell } from "./dom.js";
import { Status } from "./kinds.js";
import { plural } from "./words.js";

/** `filter`: of the queue, as it is at the time; `changed()` is called after jobs were changed. */
export function selection(filter, changed) {
  const chosen = new Map(); // jobs by id, also of other pages
  const boxes = new Map(); // checkboxes of this page by id
  let page = [], // the jobs that are shown
    total = 0, // jobs that match the filter
    all = false, // whether all of these are selected
    anchor = null; // where a range begins: the job that was chosen last

  const whole = h("input", { type: "checkbox", "aria-label": "Select this page", onchange: pickPage });
  const number = h("span", { class: "facts" });
  const everything = button("", pickAll);
  const head = h("div", { class: "list-head", hidden: true }, h("label", { class: "pick" }, whole), number, everything);

  const count = h("b", {}),
    said = h("span", { class: "facts" });
  const format = h("select", {});
  const bar = h(
    "div",
    { class: "selection", role: "group", "aria-label": "Selected files", hidden: true },
    count,
    button("Retry", retry),
    button("Cancel jobs", cancel),
    h(
      "span",
      { class: "together" },
      h("label", {}, h("span", { class: "unseen" }, "Format of the transcripts "), format),
      button("Download", download),
    ),
    h("button", { type: "button", class: "quiet", "aria-label": "Clear selection", onclick: clear }, "Clear"),
    said,
  );
  formats().then((names) => format.replaceChildren(...names.map((name) => h("option", {}, name))), complain);
  return { head, bar, box, show, clear };

  /** The checkbox of a job. */
  function box(job) {
    const made = h("input", {
      type: "checkbox",
      "aria-label": `Select ${job.path}`,
      onclick: (event) => pick(event, job.job_id),
    });
    made.checked = all || chosen.has(job.job_id);
    boxes.set(job.job_id, made);
    return made;
  }

  /** Shows the state of a new page of jobs. */
  function show(jobs, matching) {
    page = jobs;
    total = matching;
    for (const job of jobs) if (chosen.has(job.job_id)) chosen.set(job.job_id, job);
    draw();
  }

  function draw() {
    const here = page.filter((job) => chosen.has(job.job_id)).length;
    for (const job of page) boxes.get(job.job_id).checked = all || chosen.has(job.job_id);
    head.hidden = !page.length;
    whole.checked = all || (page.length > 0 && here === page.length);
    whole.indeterminate = !whole.checked && here > 0;
    number.textContent = plural(total, "file");
    everything.hidden = all || total <= page.length;
    everything.textContent = `Select all ${total.toLocaleString()}`;
    count.textContent = `${size().toLocaleString()} selected`;
    bar.hidden = !size() && !said.textContent;
  }

  function size() {
    return all ? total : chosen.size;
  }

  function pick(event, id) {
    const place = page.findIndex((job) => job.job_id === id),
      from = event.shiftKey ? page.findIndex((job) => job.job_id === anchor) : -1;
    const range = from < 0 ? [place, place] : [from, place].sort((one, other) => one - other);
    mark(page.slice(range[0], range[1] + 1), event.target.checked);
    anchor = id;
  }

  function pickPage({ target }) {
    mark(page, target.checked);
  }

  function pickAll() {
    all = true;
    noted();
    whole.focus();
  }

  function mark(jobs, is) {
    if (all) for (const job of page) chosen.set(job.job_id, job);
    all = false;
    for (const job of jobs) {
      if (is) chosen.set(job.job_id, job);
      else chosen.delete(job.job_id);
    }
    noted();
  }

  function clear() {
    const held = bar.contains(document.activeElement);
    all = false;
    chosen.clear();
    anchor = null;
    noted();
    if (held) whole.focus();
  }

  function noted() {
    said.textContent = "";
    draw();
    tell(`${size().toLocaleString()} selected`);
  }

  async function retry() {
    if (all && !filter.status) {
      const text = "Those that failed are put into the queue again. To transcribe finished files again, show the status completed first.";
      if (!(await confirm(`Retry the failed ones of ${plural(total, "file")}?`, text, "Retry"))) return;
    } else if (!(await agreed())) return;
    await change("retry", "in the queue again", "not failed, cancelled or completed");
  }

  /** Asks whether finished files shall be transcribed again, if there are any. */
  async function agreed() {
    const finished = all
      ? filter.status === Status.COMPLETED && total
      : [...chosen.values()].filter((job) => job.has_transcript).length;
    return !finished || confirm(`Transcribe ${plural(finished, "finished file")} again?`, AGAIN, "Transcribe again");
  }

  async function cancel() {
    const text = "Finished files stay as they are. Cancelled files can be retried.";
    if (all && !(await confirm(`Cancel ${plural(total, "file")}?`, text, "Cancel them"))) return;
    await change("cancel", "cancelled", "already ended");
  }

  /** Changes the selected jobs and says how many were changed. */
  async function change(wish, done, why) {
    const asked = size();
    if (!asked) return;
    const answer = await (
      all ? send(`/jobs/${wish}${query(filter)}`) : send(`/jobs/${wish}`, { job_ids: [...chosen.keys()] })
    ).catch(complain);
    if (!answer) return;
    const number = answer.jobs.length;
    const rest = !all && number < asked ? `; ${(asked - number).toLocaleString()} ${why}` : "";
    said.textContent = `${plural(number, "file")} ${done}${rest}`;
    tell(said.textContent);
    if (all) {
      all = false; // what matches the filter now are others
      draw();
    }
    changed();
  }

  async function download() {
    const which = all ? filter : { job_ids: [...chosen.keys()].join(",") };
    const path = `/jobs/transcripts${query({ ...which, format: format.value })}`;
    try {
      await ask(path, { method: "HEAD" });
    } catch (problem) {
      return complain(problem.status === 404 ? new Problem("None of these files has a transcript.") : problem);
    }
    h("a", { href: BASE + path, download: "" }).click();
  }
}

const button = (label, onclick) => h("button", { type: "button", class: "quiet", onclick }, label);
