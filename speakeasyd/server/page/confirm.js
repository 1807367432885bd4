// Asks before something that costs time or work.

import { h } from "./dom.js";

/** What is said before finished files are transcribed again. */
export const AGAIN =
  "This takes as long as the first time. The present transcript stays until the new one is complete.";

/** Resolves to whether the user agrees. `action`: the label of the button that does it. */
export function confirm(title, text, action) {
  return new Promise((answered) => {
    const dialog = h(
      "dialog",
      { "aria-labelledby": "confirm-title", "aria-describedby": "confirm-text", onclose: close },
      h(
        "form",
        { method: "dialog" },
        h("h2", { id: "confirm-title" }, title),
        h("p", { id: "confirm-text" }, text),
        h(
          "p",
          { class: "actions" },
          h("button", { value: "yes" }, action),
          h("button", { class: "quiet", value: "" }, "Keep as it is"),
        ),
      ),
    );
    function close() {
      dialog.remove();
      answered(dialog.returnValue === "yes");
    }
    document.body.append(dialog);
    dialog.showModal();
  });
}
