// Elements of a page. Text is set as text, never as markup, and what has no shape of its own is spelled out.

import { onOneLine } from "./printable.js";

/** An element with attributes, listeners ("onclick") and children, which are elements or text. */
export function make(tag, attributes = {}, ...children) {
  return filled(document.createElement(tag), attributes, children);
}

/** The same of a drawing. */
export function draw(tag, attributes = {}, ...children) {
  return filled(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
}

const shown = (content) => (typeof content === "string" ? onOneLine(content) : content);

function filled(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) element.setAttribute(name, name === "value" ? value : shown(value));
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false).map(shown));
  return element;
}

/** A bar of a share of its room, with a second one below it where another share is given. */
export function bar(share, other) {
  const whole = draw("svg", { class: "bar", viewBox: "0 0 100 10", preserveAspectRatio: "none", "aria-hidden": "true" });
  const of = (part, kind, y, height) => draw("rect", { class: kind, x: 0, y, height, width: 100 * Math.min(1, Math.max(0, part || 0)) });
  whole.append(of(share, "own", 0, other === undefined ? 10 : 6));
  if (other !== undefined) whole.append(of(other, "untouched", 7, 3));
  return whole;
}

/** A line to copy, with a button that does it. */
export function copyable(line) {
  const button = make("button", { type: "button", class: "copy", "aria-label": "copy the command" }, "copy");
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(line);
      button.textContent = "copied";
    } catch {
      const range = document.createRange();
      range.selectNodeContents(button.previousSibling);
      getSelection().removeAllRanges();
      getSelection().addRange(range);
      button.textContent = "selected";
    }
  });
  return make("span", { class: "command" }, make("code", {}, line), button);
}
