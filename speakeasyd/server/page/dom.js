// Elements from data. Text is only ever text: nothing here parses HTML.

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

const something = (children) =>
  children.flat(2).filter((child) => child !== null && child !== undefined && child !== false);

const shown = new WeakMap();

/** Makes `list` show `items`. What says the same stays the element that it was, and the focus stays with its key.
 *
 * `progress` is no reason for another element: its bar moves. Returns the elements by key.
 */
export function keep(list, items, key, make) {
  const before = shown.get(list) ?? new Map(),
    now = new Map();
  const held = [...before].find(([, { node }]) => node.contains(document.activeElement))?.[0];
  for (const item of items) {
    const { progress, ...rest } = item,
      said = JSON.stringify(rest),
      old = before.get(key(item));
    const entry = old?.said === said ? old : { said, node: make(item) };
    const meter = entry.node.querySelector("progress");
    if (meter) meter.value = progress;
    now.set(key(item), entry);
  }
  for (const [name, { node }] of before) if (now.get(name)?.node !== node) node.remove();
  settle(
    list,
    [...now.values()].map(({ node }) => node),
  );
  if (held !== undefined && !list.contains(document.activeElement))
    now.get(held)?.node.querySelector("a, button")?.focus();
  shown.set(list, now);
  return new Map([...now].map(([name, { node }]) => [name, node]));
}

/** Brings these children into `parent` in this order; those that are in their place are not touched. */
export function settle(parent, nodes) {
  let place = parent.firstElementChild;
  for (const node of nodes) {
    if (node === place) place = place.nextElementSibling;
    else parent.insertBefore(node, place);
  }
}

/** New children of `node`, if `about` says anything else than last time; the focus stays on what is called the same. */
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

/** To those who listen instead of look: only what matters. */
export function tell(news) {
  byId("news").textContent = news;
}

/** Something that was asked for could not be done. */
export function complain(problem) {
  const node = byId("problem");
  node.querySelector("span").textContent = `${problem.message.replace(/[^.]$/, "$&.")} ${problem.hint ?? ""}`;
  node.hidden = false;
}

/** Runs `action` when asked to, but never twice at once, and rests `least` ms or four times as long as it took. */
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
