// The microphone of the machine that the daemon runs on.

import { send } from "./api.js";
import { byId, clock, h, tell } from "./dom.js";

const FLOOR = -60;  // dB: quieter is drawn as nothing
const button = byId("record");
const meter = h("meter", { min: FLOOR, max: 0, low: -50, high: -3, optimum: -20, value: FLOOR, "aria-label": "Level" });
let recording = false;

export function offer(is) {
  button.hidden = !is;
}

export function hear({ kind, data }) {
  recording = data.phase === "recording" || data.phase === "stopping";
  button.classList.toggle("recording", recording);
  if (recording) {
    meter.value = Math.max(FLOOR, data.peak_db);
    button.replaceChildren(`Stop ${clock(data.seconds)} `, meter);
  } else {
    button.replaceChildren("Record");
    tell(data.reason ? `The recording ended: ${data.reason}` : "The recording is in the inbox");
  }
  if (kind === "recorder.started") tell("Recording");
}

button.addEventListener("click", async () => {
  button.disabled = true;
  try {
    hear({ kind: "", data: await send(recording ? "/recorder/stop" : "/recorder/start") });
  } catch (problem) {
    tell(problem.message);
    byId("banner").textContent = `${problem.message} ${problem.hint}`;
    byId("banner").hidden = false;
  }
  button.disabled = false;
});
