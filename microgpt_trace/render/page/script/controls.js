// The switch between light, dark and what the reader's system has. On paper all is light, pictures too.

const NEXT = { auto: "light", light: "dark", dark: "auto" };

export function switchTheme() {
  const button = document.getElementById("theme");
  const { dataset } = document.documentElement;
  let chosen = "auto";
  const show = (theme) => {
    dataset.theme = theme;
    window.dispatchEvent(new Event("resize"));
  };
  button.addEventListener("click", () => {
    chosen = NEXT[chosen];
    button.textContent = `colours: ${chosen}`;
    show(chosen);
  });
  window.addEventListener("beforeprint", () => show("light"));
  window.addEventListener("afterprint", () => show(chosen));
}
