// A page of sections: colours for maps of shares, buttons that copy commands.

import { colorOf, inkOn } from "./colors.js";
import { copyable } from "./dom.js";
import { switchTheme } from "./theme.js";

for (const cell of document.querySelectorAll("td[data-share]")) {
  const share = Number(cell.dataset.share);
  if (!Number.isFinite(share)) continue;
  const color = colorOf("signed", Math.max(-1, Math.min(1, share)));
  cell.style.background = `rgb(${color.join(" ")})`;
  cell.style.color = inkOn(color);
}
for (const line of document.querySelectorAll("p.command code")) line.replaceWith(copyable(line.textContent));
switchTheme();
document.body.classList.add("alive", "plain");
document.body.dataset.ready = "yes";
