// Requests to the daemon, and the WebSocket with its events.

import { byId } from "./dom.js";

export const BASE = "/api/v1";
const FIRST_WAIT_MS = 500,
  LONGEST_WAIT_MS = 20000;
const TOKEN_NEEDED = 4401;

export class Problem extends Error {
  constructor(message, hint = "", status = null) {
    super(message);
    this.hint = hint;
    this.status = status; // of the answer; null without one
  }
}

export async function ask(path, options = {}) {
  let answer;
  try {
    answer = await fetch(BASE + path, options);
  } catch {
    throw new Problem("The daemon does not answer.", "Is it running?");
  }
  if (answer.status === 401) {
    await enter();
    return ask(path, options);
  }
  const said = await answer.json().catch(() => null);
  if (!answer.ok) throw new Problem(said?.error.message ?? `The daemon answered ${answer.status}.`, said?.error.hint, answer.status);
  return said;
}

export const send = (path, body, method = "POST") =>
  ask(path, {
    method,
    headers: { "Content-Type": "application/json" },
    body: body === undefined ? undefined : JSON.stringify(body),
  });

/** A query string of the values that are not empty. */
export function query(values) {
  const given = Object.entries(values).filter(([, value]) => value !== null && value !== undefined && value !== "");
  return given.length ? `?${new URLSearchParams(given)}` : "";
}

let names = null;

/** Returns the names of the output formats; asks the daemon once. */
export function formats() {
  names ??= ask("/formats").then(
    (answer) => answer.formats.map(({ name }) => name),
    (problem) => {
      names = null;
      throw problem;
    },
  );
  return names;
}

let entering = null;

/** Asks for the token; concurrent callers share one dialog. */
export function enter() {
  entering ??= new Promise((entered) => {
    const dialog = byId("token"),
      form = dialog.querySelector("form"),
      wrong = byId("token-wrong");
    dialog.oncancel = (event) => event.preventDefault();
    form.onsubmit = async (event) => {
      event.preventDefault();
      const answer = await fetch(`${BASE}/session`, {
        method: "POST",
        headers: { "Content-Type": "application/json" },
        body: JSON.stringify({ token: form.elements.token.value }),
      }).catch(() => null);
      wrong.hidden = Boolean(answer?.ok);
      wrong.textContent = answer ? "Wrong token." : "The daemon does not answer.";
      if (!answer?.ok) return form.elements.token.select();
      form.reset();
      dialog.close();
      entering = null;
      entered();
    };
    dialog.showModal();
  });
  return entering;
}

/** Calls `hear.snapshot(status)`, `.events(list)` and `.connected(bool)`. Reconnects by itself and gets missed events. */
export function listen(hear) {
  let last = null,
    wait = FIRST_WAIT_MS;
  connect();

  function connect() {
    const address = new URL(`${BASE}/events${query({ after: last })}`, location.href);
    address.protocol = address.protocol.replace("http", "ws");
    const socket = new WebSocket(address);
    socket.onmessage = ({ data }) => {
      wait = FIRST_WAIT_MS;
      hear.connected(true);
      take(JSON.parse(data));
    };
    socket.onclose = async ({ code }) => {
      if (code === TOKEN_NEEDED) await enter();
      else {
        hear.connected(false);
        await pause(wait * (0.5 + Math.random()));
        wait = Math.min(2 * wait, LONGEST_WAIT_MS);
      }
      connect();
    };
  }

  function take(message) {
    if (message.type === "snapshot") {
      last = message.seq;
      hear.snapshot(message.status);
    } else {
      for (const { seq } of message.events) last = Math.max(last ?? 0, seq ?? 0);
      hear.events(message.events);
    }
  }
}

/** Waits `ms`, or until the network is back. */
const pause = (ms) =>
  new Promise((over) => {
    const timer = setTimeout(over, ms);
    addEventListener(
      "online",
      () => {
        clearTimeout(timer);
        over();
      },
      { once: true },
    );
  });
