// The machine: its workers, what stands in their way, the batches, and how much was done in each hour.

import { ask } from "./api.js";
import { bar, h, plural, seldom, span, svg, when } from "./dom.js";

const STATES = {
  starting: "starting", ready: "ready", busy: "at work", soft_restarting: "loads its model again", poisoned: "is being replaced",
  device_open: "rests until the device is well", half_open: "tries the device", cpu_only: "the CPU stands in", recycling: "is being renewed", stopped: "stopped",
};
const chart = h("div", {});
const draw = seldom(30000, async () => {
  const { hours } = await ask("/throughput?hours=24").catch(() => ({ hours: [] }));
  chart.replaceChildren(...throughput(hours));
});

export function show(aside, status) {
  draw();
  const batches = status.batches.filter((batch) => batch.pending + batch.processing > 0);
  aside.replaceChildren(
    part("Workers", status.workers.map(worker)),
    part("Batches under way", batches.map(batch)),
    part("Waiting to be complete", status.waiting.map((one) => h("li", {}, one.path, h("small", {}, one.reason)))),
    part("Inboxes", status.inboxes.map((one) => h("li", {}, h("code", {}, one.path), one.note && h("small", { class: "warning" }, one.note)))),
    part("Incidents", status.incidents.map(incident)),
    chart);
}

function part(title, items) {
  return h("section", { hidden: !items.length }, h("h2", {}, title), h("ul", {}, items));
}

function worker(one) {
  return h("li", {}, h("b", {}, one.name), ` ${STATES[one.state] ?? one.state}`,
    h("small", {}, one.model ?? "no model loaded"), one.warning && h("small", { class: "warning" }, one.warning));
}

function batch(one) {
  return h("li", {}, h("a", { href: `#/jobs?batch=${encodeURIComponent(one.batch)}` }, one.batch),
    bar(one.progress, `How far the batch ${one.batch} is`), h("small", {}, `${one.completed + one.failed + one.cancelled + one.skipped} of ${plural(one.total, "file")}`));
}

function incident(one) {
  const cost = one.cost_seconds === null ? "" : `, ${span(one.cost_seconds)}`;
  return h("li", {}, when(one.at), ` ${one.error}`, h("small", {}, `${one.action}${one.resolved_at ? `; over${cost}` : ""}`));
}

function* throughput(hours) {
  if (!hours.length) return;
  const most = Math.max(...hours.map((hour) => hour.audio_seconds), 1), width = 240 / 24;
  const first = Date.parse(hours.at(-1).hour) - 23 * 3600e3;
  const bars = hours.map((hour) => {
    const place = Math.round((Date.parse(hour.hour) - first) / 3600e3), tall = 60 * hour.audio_seconds / most;
    return svg("rect", { x: place * width + 1, y: 62 - tall, width: width - 2, height: Math.max(tall, 1), rx: 1.5 });
  });
  const total = hours.reduce((sum, hour) => sum + hour.audio_seconds, 0);
  yield h("h2", {}, "Transcribed in each hour");
  yield svg("svg", { viewBox: "0 0 240 64", class: "chart", role: "img", "aria-label": `In the last day ${span(total)} of audio; at most ${span(most)} in an hour` }, ...bars);
  yield h("p", { class: "facts" }, `${span(total)} of audio in the last day; at most ${span(most)} in an hour`);
}
