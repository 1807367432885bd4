// The side panel: workers, files not yet accepted, incidents, batches, inboxes, throughput.

import { ask } from "./api.js";
import { bar, calmly, h, keep, redraw, svg } from "./dom.js";
import { DeviceState } from "./kinds.js";
import { ended, plural, size, span, when } from "./words.js";

const STATES = {
  [DeviceState.STARTING]: "is starting",
  [DeviceState.READY]: "is ready",
  [DeviceState.BUSY]: "is busy",
  [DeviceState.SOFT_RESTARTING]: "is reloading its model",
  [DeviceState.POISONED]: "is being replaced",
  [DeviceState.DEVICE_OPEN]: "device unavailable",
  [DeviceState.HALF_OPEN]: "is testing its device",
  [DeviceState.CPU_ONLY]: "device unavailable; the CPU is used",
  [DeviceState.RECYCLING]: "is being recycled",
  [DeviceState.UNLOADED]: "is unloaded until there is work",
  [DeviceState.STOPPED]: "has stopped",
};
const HOURS = 24,
  HOUR_MS = 3600e3,
  DRAW_MS = 30000,
  WIDE = 240,
  TALL = 60;

const unreadable = (inbox) => inbox.unreadable.length && `cannot be read: ${inbox.unreadable.join(", ")}`;

/** What needs attention, above the page on every width: failing services, devices, inboxes. */
export function warn(list, { failures, incidents, inboxes }) {
  const alerts = [
    ...Object.entries(failures).map(([name, error]) => `${name}: ${error}`),
    ...incidents.filter((one) => one.resolved_at === null).map((one) => `${one.device}: ${one.summary}; ${one.action}`),
    ...inboxes.filter(unreadable).map((one) => `${one.path}: ${unreadable(one)}`),
  ];
  list.hidden = !alerts.length;
  redraw(list, alerts, () => alerts.map((alert) => h("li", {}, alert)));
}

const list = h("ul"),
  lists = {};
const sections = Object.entries({
  workers: "Workers",
  waiting: "Still being copied",
  incidents: "Incidents",
  batches: "Batches",
  inboxes: "Inboxes",
}).map(([name, title]) => h("section", { hidden: true }, h("h2", {}, title), (lists[name] = list.cloneNode())));
const chart = h("section", { hidden: true });

export function show(aside, status) {
  if (!chart.isConnected) aside.replaceChildren(...sections, chart);
  part("workers", status.workers, (one) => one.name, worker);
  part("waiting", status.waiting, (one) => `${one.inbox}/${one.path}`, arrival);
  part("incidents", status.incidents, (one) => `${one.at} ${one.device}`, incident);
  part("batches", status.batches, (one) => one.batch, batch);
  part("inboxes", status.inboxes, (one) => one.name, inbox);
  draw();
}

function part(name, items, key, make) {
  keep(lists[name], items, key, make);
  lists[name].parentElement.hidden = !items.length;
}

const warned = (...said) => said.filter(Boolean).map((one) => h("small", { class: "warning" }, one));

function worker(one) {
  return h(
    "li",
    {},
    h("b", {}, one.name),
    ` ${STATES[one.state] ?? one.state}`,
    h(
      "small",
      {},
      [one.device !== one.name && one.device, one.model ?? "no model loaded", one.rss && size(one.rss)]
        .filter(Boolean)
        .join(" · "),
    ),
    warned(one.warning),
  );
}

function arrival(one) {
  return h("li", {}, one.path, h("small", {}, `${one.reason}; since `, when(one.since)));
}

/** Summary first; the library's original message is collapsed. */
function incident(one) {
  const over =
    one.resolved_at === null
      ? "not resolved"
      : `resolved${one.cost_seconds === null ? "" : ` after ${span(one.cost_seconds)}`}`;
  return h(
    "li",
    {},
    h("b", {}, one.device),
    ` ${one.summary}`,
    h("small", {}, when(one.at), ` · ${one.action} · ${over}`),
    one.detail && h("details", {}, h("summary", {}, "Original message"), h("code", {}, one.detail)),
  );
}

function batch(one) {
  const done = ended(one);
  return h(
    "li",
    {},
    h("a", { href: `#/jobs?batch=${encodeURIComponent(one.batch)}` }, one.batch),
    done < one.total && bar(one.progress, `Progress of the batch ${one.batch}`),
    h(
      "small",
      {},
      done < one.total ? `${done.toLocaleString()} of ${plural(one.total, "file")}` : plural(one.total, "file"),
      one.failed > 0 && `, ${one.failed.toLocaleString()} failed`,
    ),
  );
}

function inbox(one) {
  return h(
    "li",
    {},
    h("code", {}, one.path),
    warned(one.note, unreadable(one)),
  );
}

const draw = calmly(async () => {
  const { hours } = await ask(`/throughput?hours=${HOURS}`).catch(() => ({ hours: [] }));
  const first = Math.floor(Date.now() / HOUR_MS) * HOUR_MS - (HOURS - 1) * HOUR_MS;
  const lately = hours.map((one) => ({ ...one, at: Date.parse(one.hour) })).filter((one) => one.at >= first);
  chart.hidden = !lately.length;
  if (lately.length) redraw(chart, { lately, first }, throughput);
}, DRAW_MS);

function* throughput({ lately, first }) {
  const most = Math.max(...lately.map((one) => one.audio_seconds), 1),
    wide = WIDE / HOURS;
  const total = span(lately.reduce((sum, one) => sum + one.audio_seconds, 0));
  const bars = lately.map((one) => {
    const tall = Math.max(1, (TALL * one.audio_seconds) / most);
    return svg("rect", {
      x: ((one.at - first) / HOUR_MS) * wide + 1,
      y: TALL - tall,
      width: wide - 2,
      height: tall,
      rx: 1.5,
    });
  });
  yield h("h2", {}, "Last 24 hours");
  yield svg(
    "svg",
    {
      viewBox: `0 0 ${WIDE} ${TALL}`,
      class: "chart",
      role: "img",
      "aria-label": `Audio transcribed per hour in the last 24 hours: ${total} in total, at most ${span(most)} per hour`,
    },
    ...bars,
  );
  yield h("p", { class: "axis", "aria-hidden": "true" }, h("span", {}, `${HOURS} hours ago`), h("span", {}, "now"));
  yield h("p", { class: "facts" }, `${total} of audio, at most ${span(most)} per hour`);
  yield h(
    "details",
    {},
    h("summary", {}, "Table"),
    h(
      "table",
      {},
      h(
        "thead",
        {},
        h(
          "tr",
          {},
          ["Hour", "Audio", "Files", "Failed"].map((name) => h("th", { scope: "col" }, name)),
        ),
      ),
      h(
        "tbody",
        {},
        lately.map((one) =>
          h(
            "tr",
            {},
            h("th", { scope: "row" }, when(new Date(one.at).toISOString())),
            [span(one.audio_seconds), one.completed, one.failed].map((value) => h("td", {}, String(value))),
          ),
        ),
      ),
    ),
  );
}
