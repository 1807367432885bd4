// Builds elements from data. Text is inserted as text and never parsed as HTML.

export function h(tag, properties = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === null || value === undefined || value === false) continue;
    if (typeof value === "function") node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...something(children));
  return node;
}

export function svg(tag, attributes = {}, ...children) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

export const byId = (id) => document.getElementById(id);

export const bar = (value, label, properties = {}) =>
  h("progress", { max: 1, value, "aria-label": label, ...properties });

/** Moves the progress bar inside `node`, and the percentage beside it. */
export function advance(node, value) {
  const meter = node?.querySelector("progress");
  if (!meter || value === undefined) return;
  meter.value = value;
  const percent = node.querySelector(".percent");
  if (percent) percent.textContent = `${Math.floor(100 * value)} %`;
}

const something = (children) =>
  children.flat(2).filter((child) => child !== null && child !== undefined && child !== false);

const shown = new WeakMap();

/** Shows `items` in `list`. Unchanged items keep their element, and the focus stays on the same control of its key.
 *
 * A change of `progress` only moves the bar. Returns the elements by key.
 */
export function keep(list, items, key, make) {
  const before = shown.get(list) ?? new Map(),
    now = new Map();
  const held = [...before].find(([, { node }]) => node.contains(document.activeElement))?.[0],
    tag = document.activeElement?.tagName ?? "a";
  for (const item of items) {
    const { progress, ...rest } = item,
      said = JSON.stringify(rest),
      old = before.get(key(item));
    const entry = old?.said === said ? old : { said, node: make(item) };
    advance(entry.node, progress);
    now.set(key(item), entry);
  }
  for (const [name, { node }] of before) if (now.get(name)?.node !== node) node.remove();
  settle(
    list,
    [...now.values()].map(({ node }) => node),
  );
  if (held !== undefined && !list.contains(document.activeElement))
    now.get(held)?.node.querySelector(tag)?.focus();
  shown.set(list, now);
  return new Map([...now].map(([name, { node }]) => [name, node]));
}

/** Orders the children of `parent`; children already in place are not touched. */
export function settle(parent, nodes) {
  let place = parent.firstElementChild;
  for (const node of nodes) {
    if (node === place) place = place.nextElementSibling;
    else parent.insertBefore(node, place);
  }
}

/** Replaces the children of `node` if `about` has changed; the focus stays on the control with the same label. */
export function redraw(node, about, make) {
  const said = JSON.stringify(about);
  if (shown.get(node) === said) return;
  shown.set(node, said);
  const held = node.contains(document.activeElement) ? document.activeElement.textContent : null;
  node.replaceChildren(...something([...make(about)]));
  if (held !== null) {
    const controls = [...node.querySelectorAll("a, button")];
    (controls.find((one) => one.textContent === held) ?? controls[0])?.focus();
  }
}

/** Announces news to screen readers. */
export function tell(news) {
  byId("news").textContent = news;
}

/** Copies text; `what` says what it is. */
export async function copy(text, what) {
  try {
    await navigator.clipboard.writeText(text);
    tell(`Copied: ${what}`);
  } catch {
    complain({ message: "This browser does not allow copying here", hint: "It does on this machine, or with https." });
  }
}

/** Shows an error in the banner. */
export function complain(problem) {
  const node = byId("problem");
  node.querySelector("span").textContent = `${problem.message.replace(/[^.]$/, "$&.")} ${problem.hint ?? ""}`;
  node.hidden = false;
}

/** Returns a throttled `action`: never concurrent; between runs it waits `least` ms or four times the last run. */
export function calmly(action, least) {
  let busy = false,
    again = false;
  return async () => {
    again = true;
    if (busy) return;
    busy = true;
    while (again) {
      again = false;
      const began = performance.now();
      await action();
      const rest = Math.max(least, 4 * (performance.now() - began));
      await new Promise((over) => setTimeout(over, rest));
    }
    busy = false;
  };
}
