// Unpack the data that page.py packed: a document, and arrays by name.

/** Return the document and a Map from names to a Float32Array or Uint8Array. */
export function unpacked(bytes) {
	const head = new DataView(bytes.buffer, bytes.byteOffset);
	const [length, count] = [head.getUint32(0, true), head.getUint32(4, true)];
	const document = JSON.parse(new TextDecoder().decode(bytes.subarray(8, 8 + length)));
	const planes = bytes.subarray(8 + length);
	const floats = joinPlanes(planes, count);
	const rest = planes.subarray(4 * count);
	const arrays = new Map();
	for (const [name, [first, size, isBytes]] of Object.entries(document.arrays)) {
		arrays.set(name, (isBytes ? rest : floats).subarray(first, first + size));
	}
	return {document, arrays};
}

/** Join four planes into numbers. The first plane has the first byte of every number, and so on. */
function joinPlanes(planes, count) {
	const bytes = new Uint8Array(4 * count);
	for (let plane = 0; plane < 4; plane += 1) {
		for (let n = 0, at = plane * count; n < count; n += 1) bytes[4 * n + plane] = planes[at + n];
	}
	return new Float32Array(bytes.buffer);
}
