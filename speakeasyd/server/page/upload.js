// Files into the inbox: dropped anywhere on the page, or chosen.

import { enter } from "./api.js";
import { bar, byId, h, plural, size } from "./dom.js";

const FILES = 50, BYTES = 500e6;  // of one request: what is through stays, whatever happens to the rest

export function choose(folder) {
  const input = h("input", { type: "file", multiple: true });
  if (folder) input.webkitdirectory = true;
  input.onchange = () => upload([...input.files].map((file) => [file.webkitRelativePath || file.name, file]));
  input.click();
}

let hovering = 0;
const hasFiles = (event) => [...event.dataTransfer.types].includes("Files");
const shade = () => { byId("drop").hidden = hovering === 0; };

addEventListener("dragenter", (event) => { if (hasFiles(event)) { hovering += 1; shade(); } });
addEventListener("dragleave", (event) => { if (hasFiles(event)) { hovering = Math.max(0, hovering - 1); shade(); } });
addEventListener("dragover", (event) => { if (hasFiles(event)) event.preventDefault(); });
addEventListener("drop", async (event) => {
  if (!hasFiles(event)) return;
  event.preventDefault();
  hovering = 0;
  shade();
  const entries = [...event.dataTransfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
  const found = await Promise.all(entries.map((entry) => files(entry, "")));
  upload(found.flat());
});

async function files(entry, folder) {
  const path = folder + entry.name;
  if (entry.isFile) return [[path, await new Promise((found, lost) => entry.file(found, lost))]];
  const reader = entry.createReader(), inside = [];
  for (let some; (some = await new Promise((found, lost) => reader.readEntries(found, lost))).length;) inside.push(...some);
  return (await Promise.all(inside.map((one) => files(one, `${path}/`)))).flat();
}

async function upload(found) {
  if (!found.length) return;
  if (!location.hash.startsWith("#/jobs")) location.hash = "#/jobs";
  const total = found.reduce((sum, [, file]) => sum + file.size, 0);
  const what = `${found.length === 1 ? found[0][0] : plural(found.length, "file")} (${size(total)})`;
  const meter = bar(0, `Uploading ${what}`), line = h("p", { class: "upload" }, `Uploading ${what} `, meter);
  await new Promise(requestAnimationFrame);
  byId("uploads").append(line);
  const problems = [];
  let done = 0;
  for (const some of portions(found)) {
    const problem = await post(some, (loaded) => { meter.value = total ? Math.min(1, (done + loaded) / total) : 1; });
    if (problem) problems.push(problem);
    done += some.reduce((sum, [, file]) => sum + file.size, 0);
  }
  line.replaceChildren(problems.length ? `${what}: ${[...new Set(problems)].join("; ")}` : `${what}: in the queue`,
    h("button", { type: "button", class: "bare", "aria-label": "Dismiss", onclick: () => line.remove() }, "×"));
  line.classList.toggle("problem", problems.length > 0);
  if (!problems.length) setTimeout(() => line.remove(), 6000);
}

function* portions(found) {
  let some = [], bytes = 0;
  for (const one of found) {
    if (some.length && (some.length >= FILES || bytes + one[1].size > BYTES)) { yield some; some = []; bytes = 0; }
    some.push(one);
    bytes += one[1].size;
  }
  yield some;
}

/** What went wrong, in words; null: nothing. */
function post(some, progress) {
  const form = new FormData();
  for (const [path, file] of some) form.append("files", file, path);
  return new Promise((over) => {
    const request = new XMLHttpRequest();
    request.open("POST", "/api/v1/batches");
    request.upload.onprogress = ({ loaded }) => progress(loaded);
    request.onerror = () => over("the daemon does not answer");
    request.onload = async () => {
      if (request.status === 401) { await enter(); over(await post(some, progress)); return; }
      if (request.status < 300) { over(null); return; }
      try { over(JSON.parse(request.responseText).error.message); } catch { over(`refused (${request.status})`); }
    };
    request.send(form);
  });
}
