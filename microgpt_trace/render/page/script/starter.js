// Unpack the data, and run the script in it, which the policy of the page allows by its hash. The script gets
// the other data. A browser prints a page as soon as it has loaded, so an open frame keeps the page loading
// until then.
(async () => {
	const frame = document.createElement("iframe");
	frame.hidden = true;
	document.body.append(frame);
	frame.contentDocument?.open();
	try {
		const text = document.getElementById("packed").textContent;
		// in base 85, a length before the bytes
		const words = new DataView(new ArrayBuffer((text.length / 5) * 4));
		for (let at = 0; at < text.length; at += 5) {
			let word = 0;
			for (let n = at; n < at + 5; n += 1) {
				const code = text.charCodeAt(n);
				word = word * 85 + code - 35 - (code > 60);
			}
			words.setUint32((at / 5) * 4, word);
		}
		const bytes = new Uint8Array(words.buffer, 4, words.getUint32(0));
		const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
		const data = new Uint8Array(await new Response(stream).arrayBuffer());
		const length = new DataView(data.buffer).getUint32(0, true);
		const script = document.createElement("script");
		globalThis.microgptContent = data.slice(4 + length);
		script.textContent = new TextDecoder().decode(data.subarray(4, 4 + length));
		document.body.append(script);
	} finally {
		frame.remove();
	}
})();
