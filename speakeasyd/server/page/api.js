// The way to the daemon: requests that explain their errors, and the one connection that tells what happens.

import { byId } from "./dom.js";

const BASE = "/api/v1";
const LONGEST_WAIT = 20000;
const TOKEN_NEEDED = 4401;

export class Problem extends Error {
  constructor(message, hint, status) {
    super(message);
    this.hint = hint;
    this.status = status;
  }
}

export async function ask(path, options = {}) {
  let answer;
  try {
    answer = await fetch(BASE + path, options);
  } catch {
    throw new Problem("the daemon does not answer", "Is it running?", 0);
  }
  if (answer.status === 401) {
    await enter();
    return ask(path, options);
  }
  const said = await answer.json();
  if (!answer.ok) throw new Problem(said.error.message, said.error.hint, answer.status);
  return said;
}

export const send = (path, body) => ask(path, {
  method: "POST",
  headers: { "Content-Type": "application/json" },
  body: body === undefined ? undefined : JSON.stringify(body),
});

/** The parts of a query that say something. */
export function query(values) {
  const given = Object.entries(values).filter(([, value]) => value !== null && value !== undefined && value !== "");
  return given.length ? `?${new URLSearchParams(given)}` : "";
}

let entering = null;
export function enter() {
  entering ??= new Promise((entered) => {
    const dialog = byId("token"), form = dialog.querySelector("form"), wrong = byId("token-wrong");
    dialog.oncancel = (event) => event.preventDefault();
    form.onsubmit = async (event) => {
      event.preventDefault();
      const answer = await fetch(`${BASE}/session`, {
        method: "POST", headers: { "Content-Type": "application/json" },
        body: JSON.stringify({ token: form.elements.token.value }),
      });
      wrong.hidden = answer.ok;
      if (!answer.ok) return form.elements.token.select();
      form.reset();
      dialog.close();
      entering = null;
      entered();
    };
    dialog.showModal();
  });
  return entering;
}

/** Tells `hear.snapshot(status)` and `hear.events(list)`; reconnects by itself and misses nothing. */
export function listen(hear) {
  let last = null, wait = 500;
  const connect = () => {
    const address = new URL(`${BASE}/events${query({ after: last })}`, location.href);
    address.protocol = address.protocol.replace("http", "ws");
    const socket = new WebSocket(address);
    socket.onopen = () => { wait = 500; hear.connected(true); };
    socket.onmessage = ({ data }) => {
      const message = JSON.parse(data);
      if (message.type === "snapshot") {
        last = message.seq;
        hear.snapshot(message.status);
      } else {
        for (const event of message.events) if (event.seq !== null) last = Math.max(last ?? 0, event.seq);
        hear.events(message.events);
      }
    };
    socket.onclose = async ({ code }) => {
      if (code === TOKEN_NEEDED) await enter();
      else {
        hear.connected(false);
        await new Promise((over) => setTimeout(over, wait * (0.5 + Math.random())));
        wait = Math.min(2 * wait, LONGEST_WAIT);
      }
      connect();
    };
  };
  connect();
}
