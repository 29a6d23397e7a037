"use strict";
/* Draws every figure from the JSON beside it; in dark mode with lighter ink. */
const dark = matchMedia("(prefers-color-scheme: dark)");
const config = {displayModeBar: false, displaylogo: false, responsive: true, showTips: false};
function draw(box) {
  let text = document.getElementById("data-" + box.dataset.figure).textContent;
  text = text.replaceAll("#76808c", dark.matches ? "#aab4c0" : "#56606c");
  const figure = JSON.parse(text);
  delete figure.layout.title;
  figure.layout.margin = Object.assign({}, figure.layout.margin, {t: Math.min(figure.layout.margin.t, 34)});
  Plotly.react(box, figure.data, figure.layout, config);
}
const boxes = Array.from(document.querySelectorAll("[data-figure]"));
const seen = new IntersectionObserver((entries) => {
  for (const entry of entries) {
    if (entry.isIntersecting) { seen.unobserve(entry.target); draw(entry.target); }
  }
}, {rootMargin: "600px"});
boxes.forEach((box) => seen.observe(box));
dark.addEventListener("change", () => boxes.filter((box) => box.data).forEach(draw));
addEventListener("beforeprint", () => boxes.filter((box) => !box.data).forEach(draw));
