// Elements out of text. Nothing that comes from the server or a model ever becomes markup: text nodes only.

export const at = (id) => document.getElementById(id);

export function element(name, options = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(options)) {
    if (value !== null && value !== undefined) made.setAttribute(key, value);
  }
  made.append(...children);
  return made;
}

export function drawn(name, options = {}, ...children) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(options)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

// Writes only what is new: what a reader has selected, or a screen reader has read, stays.
export function write(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

export function mark(node, name, value) {
  if (value === null || value === undefined) node.removeAttribute(name);
  else if (node.getAttribute(name) !== String(value)) node.setAttribute(name, value);
}

// Keeps one child for each item, in order; `make` builds it once, `update` fills it each time.
export function each(parent, items, name, make, update) {
  const known = new Map([...parent.children].map((child) => [child.dataset.item, child]));
  items.forEach((item, place) => {
    const id = name(item);
    let child = known.get(id);
    if (child === undefined) {
      child = make(item);
      child.dataset.item = id;
    }
    known.delete(id);
    if (parent.children[place] !== child) parent.insertBefore(child, parent.children[place] ?? null);
    update(child, item);
  });
  for (const child of known.values()) child.remove();
}
