// Uploads files to the inbox: dropped anywhere on the page, or chosen.

import { enter, query } from "./api.js";
import { bar, byId, h, redraw } from "./dom.js";
import { Status } from "./kinds.js";
import { plural, size } from "./words.js";

const THANKS_MS = 10000,
  MOST_REFUSED = 20; // files that are listed

const batch = h("input", { name: "batch", placeholder: "a folder of the inbox", autocomplete: "off" });
const language = h("input", { size: 9, placeholder: "as configured", autocomplete: "off" });
const model = h("select", {}),
  preset = h("select", {}),
  inbox = h("select", {}),
  speakers = h(
    "select",
    {},
    h("option", { value: "" }, "as configured"),
    h("option", { value: "off" }, "do not tell apart"),
    h("option", { value: "auto" }, "tell apart"),
    Array.from({ length: 10 }, (_, number) => h("option", { value: number + 1 }, `tell apart: ${number + 1}`)),
  );
const chosen = h("summary", {}, "Options");
const more = h(
  "details",
  { onchange: summarize },
  chosen,
  h(
    "div",
    { class: "filters" },
    h("label", {}, "Batch ", batch),
    h("label", {}, "Language ", language),
    h("label", {}, "Model ", model),
    h("label", {}, "Preset ", preset),
    h("label", {}, "Inbox ", inbox),
    h("label", {}, "Speakers ", speakers),
  ),
);

/** The upload form, shown above the queue. */
export const form = h(
  "section",
  { class: "hand-in", "aria-label": "Upload" },
  h("p", {}, "Drop audio or video anywhere on this page, or "),
  h("button", { type: "button", onclick: () => choose(false) }, "Choose files"),
  h("button", { type: "button", class: "quiet", onclick: () => choose(true) }, "Choose folder"),
  more,
);

/** Show the chosen options also while they are folded. */
function summarize() {
  const said = { batch, language, model, preset, inbox, speakers };
  const given = Object.entries(said).filter(([, field]) => field.value.trim());
  chosen.textContent = ["Options", given.map(([name, field]) => `${name} ${field.value.trim()}`).join(", ")]
    .filter(Boolean)
    .join(": ");
}

/** Fill the lists of models, presets and inboxes. */
export function offer({ models, presets, inbox_names: inboxes }) {
  redraw(model, models, () => [
    h("option", { value: "" }, "as configured"),
    ...models.map((name) => h("option", {}, name)),
  ]);
  redraw(preset, presets, () => [
    h("option", { value: "" }, "preset of the inbox"),
    ...presets.map((name) => h("option", {}, name)),
  ]);
  redraw(inbox, inboxes, () => [
    h("option", { value: "" }, "inbox for uploads"),
    ...inboxes.map((name) => h("option", {}, name)),
  ]);
  preset.parentElement.hidden = !presets.length;
  inbox.parentElement.hidden = inboxes.length < 2;
}

function choose(folder) {
  const input = h("input", { type: "file", multiple: true, webkitdirectory: folder });
  input.onchange = () => upload([...input.files].map((file) => ({ path: file.webkitRelativePath || file.name, file })));
  input.click();
}

let depth = 0; // number of nested elements that files are dragged over

function over(event, by) {
  if (!event.dataTransfer?.types.includes("Files")) return;
  event.preventDefault();
  depth = Math.max(0, depth + by);
  byId("drop").hidden = depth === 0;
}

addEventListener("dragenter", (event) => over(event, 1));
addEventListener("dragleave", (event) => over(event, -1));
addEventListener("dragover", (event) => over(event, 0));
addEventListener("drop", async (event) => {
  over(event, -depth);
  const entries = [...event.dataTransfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
  upload((await Promise.all(entries.map((entry) => within(entry, "")))).flat());
});

/** The files of a dropped entry; of a folder, with their paths inside it. */
async function within(entry, folder) {
  const path = folder + entry.name;
  if (entry.isFile) return [{ path, file: await new Promise((found, lost) => entry.file(found, lost)) }];
  const reader = entry.createReader(),
    inside = [];
  for (let some; (some = await new Promise((found, lost) => reader.readEntries(found, lost))).length;)
    inside.push(...some);
  return (await Promise.all(inside.map((one) => within(one, `${path}/`)))).flat();
}

async function upload(all) {
  const files = all.filter(({ path }) => !path.split("/").at(-1).startsWith("."));
  if (!files.length) return;
  const options = { language: language.value.trim(), model: model.value, speakers: speakers.value };
  const wish = { batch: batch.value.trim(), preset: preset.value, inbox: inbox.value, options };
  const total = files.reduce((sum, { file }) => sum + file.size, 0);
  const what = `${files.length === 1 ? files[0].path : plural(files.length, "file")} (${size(total)})`;
  const meter = bar(0, `Uploading ${what}`),
    stop = new AbortController(),
    taken = [],
    refused = [];
  const line = h(
    "div",
    { class: "upload" },
    h("p", {}, `Uploading ${what}`),
    meter,
    button("Cancel", () => stop.abort()),
  );
  byId("uploads").append(line);
  let done = 0;
  for (const one of files) {
    if (stop.signal.aborted) break;
    const answer = await post(one, wish, stop.signal, (loaded) => {
      meter.value = total ? (done + loaded) / total : 1;
    });
    done += one.file.size;
    if (answer.files) taken.push(...answer.files);
    else if (!stop.signal.aborted) refused.push({ path: one.path, ...answer.error });
  }
  conclude(line, { files, taken, refused, wish });
}

function conclude(line, { files, taken, refused, wish }) {
  const known = taken.filter((one) => one.status === Status.SKIPPED).length;
  const said = [
    taken.length > known &&
      `${taken.length === 1 ? taken[0].path : plural(taken.length - known, "file")}: in the queue`,
    known && `${plural(known, "file")} already known`,
    taken.length + refused.length < files.length && "cancelled",
    refused.length && `${plural(refused.length, "file")} refused`,
  ].filter(Boolean);
  line.replaceChildren(
    h(
      "p",
      {},
      `${said.join("; ")} `,
      taken.length === 1
        ? h("a", { href: `#/job/${taken[0].job_id}` }, "Open job")
        : wish.batch && h("a", { href: `#/jobs${query({ batch: wish.batch })}` }, "Show jobs"),
    ),
    button("Dismiss", () => line.remove()),
  );
  if (refused.length)
    line.append(
      h(
        "ul",
        { class: "problem" },
        refused.slice(0, MOST_REFUSED).map(refusal),
        refused.length > MOST_REFUSED && h("li", {}, `and ${plural(refused.length - MOST_REFUSED, "other file")}`),
      ),
    );
  else
    setTimeout(() => {
      if (!line.matches(":focus-within, :hover")) line.remove();
    }, THANKS_MS);
}

const refusal = ({ path, message, hint }) =>
  h("li", {}, message.includes(path) ? message : `${path}: ${message}`, hint && h("small", {}, hint));

const button = (label, onclick) => h("button", { type: "button", class: "quiet", onclick }, label);

const RETRY_MS = 2000;

/** A key by which the daemon recognises a request that is sent again. */
function newKey() {
  return [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

/**
 * Returns the daemon's answer, or `{error}`. One file per request, so a refused file does not affect others.
 * After a lost connection it is sent once more, with the same key.
 */
function post({ path, file }, wish, signal, progress, key = newKey(), triesLeft = 1) {
  const body = new FormData();
  if (wish.batch) body.append("batch", wish.batch);
  if (wish.preset) body.append("preset", wish.preset);
  const given = Object.entries(wish.options).filter(([, value]) => value);
  const options = { word_timestamps: true, ...Object.fromEntries(given) }; // the page plays single words
  body.append("options", JSON.stringify(options));
  body.append("files", file, path);
  return new Promise((done) => {
    const request = new XMLHttpRequest(),
      fail = (message) => done({ error: { message } });
    request.open("POST", `/api/v1/batches${query({ inbox: wish.inbox })}`);
    request.setRequestHeader("Idempotency-Key", key);
    request.responseType = "json";
    request.upload.onprogress = ({ loaded }) => progress(Math.min(loaded, file.size));
    request.onerror = () => {
      if (triesLeft <= 0 || signal.aborted) return fail("upload failed, or the daemon does not answer");
      setTimeout(() => done(post({ path, file }, wish, signal, progress, key, triesLeft - 1)), RETRY_MS);
    };
    request.onabort = () => fail("cancelled");
    request.onload = async () => {
      if (request.status === 401) {
        await enter();
        done(post({ path, file }, wish, signal, progress, key));
        return;
      }
      progress(file.size);
      done(request.response ?? { error: { message: `the daemon answered ${request.status}` } });
    };
    signal.addEventListener("abort", () => request.abort(), { once: true });
    request.send(body);
  });
}
