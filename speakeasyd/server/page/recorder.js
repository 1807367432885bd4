// The microphone of the machine that the daemon runs on.

import { ask, send } from "./api.js";
import { byId, complain, tell } from "./dom.js";
import { EventKind, RecordingPhase } from "./kinds.js";
import { clock } from "./words.js";

const FLOOR_DB = -60; // lower levels are shown as zero
const button = byId("record"),
  meter = byId("level"),
  time = byId("recorded");
let recording = false,
  asked = false;

/** `is`: whether this machine can record. */
export function offer(is) {
  button.hidden = !is;
  if (!is || asked) return;
  asked = true;
  ask("/recorder").then((state) => show(state), complain);
}

export function hear({ kind, data }) {
  show(data);
  if (kind === EventKind.RECORDER_STARTED) tell("Recording");
  if (kind === EventKind.RECORDER_FAILED) complain({ message: `Recording failed: ${data.reason}` });
  if (kind === EventKind.RECORDER_STOPPED)
    tell(data.reason ? `Recording ended: ${data.reason}` : "Recording saved to the inbox");
}

function show({ phase, peak_db: peak, seconds }) {
  recording = phase === RecordingPhase.RECORDING || phase === RecordingPhase.STOPPING;
  button.classList.toggle("recording", recording);
  button.textContent = recording ? "Stop" : "Record";
  button.ariaLabel = recording ? "Stop recording" : null;
  meter.hidden = time.hidden = !recording;
  meter.value = Math.max(FLOOR_DB, peak);
  time.textContent = clock(seconds);
}

button.addEventListener("click", async () => {
  button.disabled = true;
  try {
    show(await send(recording ? "/recorder/stop" : "/recorder/start"));
  } catch (problem) {
    complain(problem);
  }
  button.disabled = false;
  button.focus();
});
