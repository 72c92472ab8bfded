// Makes and changes elements. Text is only ever set as text: nothing here makes markup of a string.

const SVG = "http://www.w3.org/2000/svg";

/** A new element with these classes and children; a string becomes a text node. */
export function make(tag, classes = "", ...children) {
  const node = document.createElement(tag);
  if (classes) node.className = classes;
  node.append(...children);
  return node;
}

/** A new SVG element with these attributes and children. */
export function draw(tag, attributes = {}, ...children) {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

/** Show this text there; what already says so is left alone, so that selections and readers are not disturbed. */
export function say(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

/** Set an attribute, or take it away where `value` is null. */
export function mark(node, name, value) {
  if (value === null) node.removeAttribute(name);
  else if (node.getAttribute(name) !== String(value)) node.setAttribute(name, value);
}

/** Fill `node` with a sentence in which `…` between backticks is code. */
export function sayWithCode(node, sentence) {
  if (node.dataset.said === sentence) return;
  node.dataset.said = sentence;
  node.replaceChildren(
    ...sentence.split("`").map((part, at) => (at % 2 ? make("code", "", part) : document.createTextNode(part))),
  );
}

const kept = new WeakMap();

/**
 * One child of `parent` for each item: made once by `create(item)` as {node, …}, kept by its key, brought up to date by
 * `update(made, item)`, in the order of the items.
 */
export function keep(parent, items, keyOf, create, update) {
  const before = kept.get(parent) ?? new Map();
  const now = new Map();
  let next = parent.firstChild;
  for (const item of items) {
    const key = keyOf(item);
    const made = before.get(key) ?? create(item);
    before.delete(key);
    now.set(key, made);
    if (made.node === next) next = next.nextSibling;
    else parent.insertBefore(made.node, next);
    update(made, item);
  }
  for (const made of before.values()) made.node.remove();
  kept.set(parent, now);
}

/** A bar that is filled to a share, with an optional mark; what it means is said by the text beside it. */
export function bar(classes = "") {
  const fill = make("span", "bar-fill");
  const node = make("span", `bar ${classes}`, fill);
  node.setAttribute("aria-hidden", "true");
  return { node, set: (share) => fill.style.setProperty("width", `${100 * Math.min(1, Math.max(0, share || 0))}%`) };
}
