// Colours of numbers. Both colour maps grow lighter from end to end, so that they can be read in shades of gray
// and by readers who do not see red or green.

const channels = (color) => [1, 3, 5].map((at) => Number.parseInt(color.slice(at, at + 2), 16));
const STOPS = {
  share: ["#00224e", "#123570", "#3b496c", "#575d6d", "#707173", "#8a8678", "#a59c74", "#c3b369", "#e1cc55", "#fee838"].map(channels),
  signed: ["#08184f", "#1d4495", "#4a77bd", "#7f9fc0", "#a3a6a8", "#c9a97c", "#e3b65c", "#f5d472", "#fff3b8"].map(channels),
};

/** The red, green and blue of a share, which is from 0 to 1 if `kind` is "share", and from -1 to 1 if it is "signed". */
export function colorOf(kind, share) {
  const stops = STOPS[kind];
  const at = Math.max(0, Math.min(1, kind === "share" ? share : (share + 1) / 2)) * (stops.length - 1);
  const left = Math.min(Math.floor(at), stops.length - 2);
  return stops[left].map((part, channel) => Math.round(part + (stops[left + 1][channel] - part) * (at - left)));
}

/** Black or white, whichever stands out from the colour. */
export function inkOn([red, green, blue]) {
  const linear = (part) => (part <= 10 ? part / 255 / 12.92 : ((part / 255 + 0.055) / 1.055) ** 2.4);
  return 0.2126 * linear(red) + 0.7152 * linear(green) + 0.0722 * linear(blue) < 0.179 ? "#fff" : "#000";
}

/** The place of a value on a scale that ends at `end`, from -1 to 1. The scale is a square root unless `linear`. */
export function placeOn({ end, linear }, value) {
  const share = end > 0 ? Math.min(1, Math.abs(value) / end) : 0;
  return Math.sign(value) * (linear ? share : Math.sqrt(share));
}
