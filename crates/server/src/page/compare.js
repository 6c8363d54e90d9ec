// One picture, or two of them with a slider between: the left part shows the one, the right part the other.

import { find } from "./dom.js";

const frame = find("#frame");
const slider = find("#slider");

function move() {
  frame.style.setProperty("--at", `${slider.value}%`);
  slider.setAttribute("aria-valuetext", `${slider.value} % ${find("#left-name").textContent}`);
}
slider.addEventListener("input", move);

/** Shows a result: { url, type, width, height, name }. */
export function show(result) {
  const isVideo = result.type.startsWith("video/");
  const picture = find("#picture");
  const video = find("#video");
  picture.hidden = isVideo;
  video.hidden = !isVideo;
  frame.style.aspectRatio = `${result.width} / ${result.height}`;
  const { style } = find("#result");
  style.setProperty("--width", `${result.width}px`);
  style.setProperty("--ratio", String(result.width / result.height));
  if (isVideo) {
    video.src = result.url;
  } else {
    video.removeAttribute("src");
    picture.src = result.url;
    picture.alt = result.alt;
  }
  find("#right-name").textContent = result.name;
  frame.hidden = false;
  // A picture of few pixels is shown larger, and its pixels as they are.
  frame.classList.toggle("enlarged", frame.offsetWidth > result.width);
}

/** Lays another picture over it, or takes it away. */
export function against(other) {
  const over = find("#over");
  for (const element of [over, slider, find("#names"), find("#handle")]) element.hidden = !other;
  if (!other) return;
  over.src = other.url;
  find("#left-name").textContent = other.name;
  move();
}
