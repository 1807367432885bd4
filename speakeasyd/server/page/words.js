// Formats numbers, times and states for display.

import { h } from "./dom.js";

const two = (number) => String(number).padStart(2, "0");

/** Position in a recording: 1:02:03. */
export function clock(seconds) {
  const whole = Math.floor(seconds);
  const [hours, minutes] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60];
  return hours ? `${hours}:${two(minutes)}:${two(whole % 60)}` : `${minutes}:${two(whole % 60)}`;
}

/** An approximate duration. */
export function span(seconds) {
  if (seconds < 90) return `${Math.max(1, Math.round(seconds))} s`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min`;
  return seconds < 129600 ? `${(seconds / 3600).toFixed(1)} h` : `${Math.round(seconds / 86400)} days`;
}

export function size(bytes) {
  const power = bytes < 1000 ? 0 : Math.min(4, Math.floor(Math.log10(bytes) / 3)),
    number = bytes / 1000 ** power;
  return `${number.toFixed(power && number < 10 ? 1 : 0)} ${["B", "kB", "MB", "GB", "TB"][power]}`;
}

export const plural = (number, one, many = `${one}s`) => `${number.toLocaleString()} ${number === 1 ? one : many}`;

const day = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "short" });
const hour = new Intl.DateTimeFormat(undefined, { timeStyle: "short" });

/** A point in time: the time of day, with the date if it is not today. */
export function when(iso) {
  const date = new Date(iso),
    today = date.toDateString() === new Date().toDateString();
  return h("time", { datetime: iso, title: day.format(date) }, (today ? hour : day).format(date));
}

export const joined = (...facts) => facts.filter(Boolean).join(" · ");

export const ended = (batch) => batch.completed + batch.failed + batch.cancelled + batch.skipped;
