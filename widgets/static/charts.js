/* Plotly, one copy for the page, fed with figures as they change. It comes from the kernel's own
   installation over the kernel's connection: no page asks another host for it. */
const WB_PLOTLY = "__workbench_plotly__";

function needPlotly(app) {
  if (!globalThis[WB_PLOTLY]) {
    globalThis[WB_PLOTLY] = new Promise((resolve) => { globalThis[`${WB_PLOTLY}got`] = resolve; });
  }
  if (!globalThis[`${WB_PLOTLY}there`]) app.ask("plotly");
  return globalThis[WB_PLOTLY];
}

async function gotPlotly(view) {
  if (globalThis[`${WB_PLOTLY}there`]) return;
  globalThis[`${WB_PLOTLY}there`] = true;
  const packed = new Blob([view]).stream().pipeThrough(new DecompressionStream("gzip"));
  const source = await new Response(packed).text();
  const parts = ["const module={exports:{}};const exports=module.exports;", source,
    "\nexport default (module.exports.newPlot?module.exports:globalThis.Plotly);"];
  const url = URL.createObjectURL(new Blob(parts, { type: "text/javascript" }));
  try {
    globalThis[`${WB_PLOTLY}got`]((await import(/* webpackIgnore: true */ url)).default);
  } finally {
    URL.revokeObjectURL(url);
  }
}

function inkOf(node) {
  const style = getComputedStyle(node);
  return { ink: style.getPropertyValue("--wb-ink-2").trim() || "#555",
    line: style.getPropertyValue("--wb-line").trim() || "#ddd" };
}

/* Lines of at most `width` characters; the text is escaped already and breaks with <br>. */
function wrapped(text, width) {
  const lines = [""];
  for (const word of text.replaceAll("<br>", " ").split(/\s+/)) {
    const last = lines[lines.length - 1];
    if (last && last.length + word.length + 1 > width) lines.push(word);
    else lines[lines.length - 1] = last ? `${last} ${word}` : word;
  }
  return lines.join("<br>");
}

/* The page's colours instead of the neutral grey, and no title: the card has one. */
function dressed(figure, node, height) {
  const { ink, line } = inkOf(node);
  const layout = structuredClone(figure.layout || {});
  for (const [key, value] of Object.entries(layout)) {
    if (/^[xy]axis/.test(key) && value) Object.assign(value, { gridcolor: line, linecolor: line, tickcolor: line });
  }
  const below = layout.legend && layout.legend.y < 0;
  if (below) Object.assign(layout.legend, { yref: "container", y: 0, yanchor: "bottom", x: 0,
    font: { size: 10, color: ink }, entrywidth: 66 });
  Object.assign(layout, { title: undefined, height, autosize: true,
    // A zoom survives new data, but not the change from an empty chart to a full one.
    uirevision: (figure.data || []).length ? "data" : "empty",
    font: { ...(layout.font || {}), color: ink, size: 11 },
    margin: { l: 48, r: 12, t: below ? 8 : 22, b: below ? 58 : 36 },
    transition: { duration: 0 } });
  for (const note of layout.annotations || []) {
    note.font = { ...(note.font || {}), color: ink, size: 11.5 };
    if (note.y === 0.5) note.text = wrapped(note.text, (node.clientWidth - 60) / 6.2);
  }
  return { data: structuredClone(figure.data || []), layout };
}

const PLOT_CONFIG = { displayModeBar: false, displaylogo: false, responsive: true, scrollZoom: false,
  showTips: false, doubleClick: "reset", plotlyServerURL: "" };

function chartCard(app, name, title, height, trait) {
  const plot = h("div", { class: "wb-plot", style: `height:${height}px` });
  const card = h("section", { class: "wb-card wb-chart", data: { chart: name } }, h("h3", {}, title), plot);
  let latest = null;
  let busy = false;
  let missed = false;
  const show = async () => {
    if (busy) { missed = true; return; }    // a frame is skipped while the last one is drawn
    const figure = latest;
    card.hidden = !figure || !figure.layout;
    if (card.hidden || !plot.isConnected) return;
    busy = true;
    try {
      const Plotly = await app.plotly();
      const { data, layout } = dressed(figure, card, height);
      await Plotly.react(plot, data, layout, PLOT_CONFIG);
      card.dataset.frames = String(Number(card.dataset.frames || 0) + 1);
    } finally {
      busy = false;
      if (missed) { missed = false; show(); }
    }
  };
  app.watch(trait, (figure) => { latest = figure; show(); });
  app.onShow(show);
  app.onEnd(async () => { if (globalThis[`${WB_PLOTLY}there`]) (await app.plotly()).purge(plot); });
  return card;
}

function chartsPart(app) {
  return h("div", { class: "wb-charts" }, (app.model.get("chart_titles") || []).map(({ name, title }) =>
    chartCard(app, name, title, 220, `figure_${name}`)));
}
