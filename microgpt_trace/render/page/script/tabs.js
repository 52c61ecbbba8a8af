// Tabs show sections one at a time. Without scripts, the tabs are links to the sections.

import { make } from "./dom.js";

const ALL = "all";

/** Turn the links in `list` into tabs. Return null if there is no list. */
export function switchTabs(list, { go, place }) {
  if (!list) return null;
  const links = [...list.querySelectorAll("a")];
  const parts = links.map((link) => link.hash.slice(1));
  const buttons = [...parts, ALL].map((part, n) => make("button", {
    type: "button", onclick: () => go({ ...place(), settings: { ...place().settings, part } }),
  }, links[n]?.textContent ?? ALL));
  list.replaceChildren(...buttons);
  return {
    show({ name, settings }) {
      const request = settings.part ?? (parts.includes(name) ? name : parts.at(-1));
      const chosen = parts.includes(request) ? request : ALL;
      for (const part of parts) document.getElementById(part).hidden = chosen !== ALL && part !== chosen;
      buttons.forEach((button, n) => button.setAttribute("aria-pressed", String((parts[n] ?? ALL) === chosen)));
    },
  };
}
