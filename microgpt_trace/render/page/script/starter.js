// Runs the script that stands in the packed data, if the page's policy knows it, and hands the rest on. An open
// frame keeps the page loading until then, for a browser prints what has loaded.
(async () => {
  const frame = document.createElement("iframe");
  frame.hidden = true;
  document.body.append(frame);
  frame.contentDocument?.open();
  try {
    const text = document.getElementById("packed").textContent;
    const bytes = Uint8Array.from(atob(text), (char) => char.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
    const whole = new Uint8Array(await new Response(stream).arrayBuffer());
    const length = new DataView(whole.buffer).getUint32(0, true);
    const script = document.createElement("script");
    globalThis.microgptContent = whole.slice(4 + length);
    script.textContent = new TextDecoder().decode(whole.subarray(4, 4 + length));
    document.body.append(script);
  } finally {
    frame.remove();
  }
})();
