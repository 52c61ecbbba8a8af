// Sections of which one is shown at a time, chosen by links that lead to each where no script runs.

import { make } from "./dom.js";

const ALL = "all";

/** `list` has the links; null where there are none. */
export function switchTabs(list, { go, place }) {
  if (!list) return null;
  const links = [...list.querySelectorAll("a")];
  const parts = links.map((link) => link.hash.slice(1));
  const buttons = [...parts, ALL].map((part, n) => make("button", {
    type: "button", onclick: () => go({ ...place(), settings: { ...place().settings, part } }),
  }, links[n]?.textContent ?? ALL));
  list.replaceChildren(...buttons);
  return {
    resized() {},
    show({ name, settings }) {
      const asked = settings.part ?? (parts.includes(name) ? name : parts.at(-1));
      const chosen = asked === ALL || parts.includes(asked) ? asked : ALL;
      for (const part of parts) document.getElementById(part).hidden = chosen !== ALL && part !== chosen;
      buttons.forEach((button, n) => button.setAttribute("aria-pressed", String((parts[n] ?? ALL) === chosen)));
    },
  };
}
