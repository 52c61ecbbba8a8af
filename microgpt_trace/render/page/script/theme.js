// The switch between light, dark and what the reader's system has.

const NEXT = { auto: "light", light: "dark", dark: "auto" };

export function switchTheme() {
  const button = document.getElementById("theme");
  button.addEventListener("click", () => {
    const root = document.documentElement;
    root.dataset.theme = NEXT[root.dataset.theme ?? "auto"];
    button.textContent = `colours: ${root.dataset.theme}`;
    window.dispatchEvent(new Event("resize"));
  });
}
