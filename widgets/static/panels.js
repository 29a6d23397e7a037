/* Panels: one question about the shown run at a time. Content is made in the kernel when a panel is
   opened, and again when the run it speaks of changed. */
function panelsPart(app) {
  const menu = h("div", { class: "wb-questions", role: "tablist", "aria-label": "questions" });
  const body = h("div", { class: "wb-answer" });
  const buttons = {};
  let chosen = "";
  const open = (key) => {
    chosen = key;
    for (const [k, b] of Object.entries(buttons)) b.setAttribute("aria-selected", String(k === key));
    app.ask("panel", { key });
  };
  app.watch("panels", (panels) => {
    menu.replaceChildren(...panels.map(({ key, title, question }) => {
      buttons[key] = h("button", { class: "wb-question", type: "button", role: "tab", title: question,
        data: { question: key }, on: { click: () => open(key) } }, title);
      return buttons[key];
    }));
  });
  /* A mark that stands for an offer is a button: its number counts on behind the buttons above. */
  const pick = (p) => (number) => {
    if (!Number.isInteger(number)) return;
    app.pending("run");
    app.ask("try", { key: p.key, index: p.actions.length + number });
  };
  app.watch("panel", (p) => {
    if (!p.key) {
      body.replaceChildren(h("p", { class: "wb-quiet" }, "Choose a question about the shown run."));
      return;
    }
    body.dataset.panel = p.key;
    const plots = p.figures.map(() => h("div", { class: "wb-plot", style: "height:320px" }));
    draw(body, p, () => [
      h("p", { class: "wb-quiet" }, `${p.question} ${p.about}`),
      p.empty && h("p", { class: "wb-quiet wb-empty" }, p.empty),
      !p.empty && p.sentences.map((s) => h("p", { class: "wb-explain" }, s)),
      !p.empty && p.actions.length > 0 && h("div", { class: "wb-buttons" }, p.actions.map((a, i) =>
        button(a.label, "wb-small wb-try", () => { app.pending("run"); app.ask("try", { key: p.key, index: i }); },
          a.help))),
      !p.empty && plots,
      !p.empty && p.tables.map((t) => [t.title && h("h4", {}, t.title), tableOf(t.columns, t.rows.map((row) =>
        h("tr", {}, row.map((cell, i) => h(i ? "td" : "th", { class: t.numeric[i] ? "wb-num" : "" }, cell)))),
      "wb-numbers")]),
    ]);
    if (!p.empty && body.contains(plots[0] || null)) drawPlots(app, body, p.figures, plots, pick(p));
  });
  app.onShow(() => {
    const p = app.model.get("panel");
    const plots = [...body.querySelectorAll(".wb-plot")];
    if (p.key && plots.length === p.figures.length) drawPlots(app, body, p.figures, plots, pick(p));
  });
  return h("div", { class: "wb-panel", data: { panel: "explain" } }, menu, body);
}

async function drawPlots(app, node, figures, plots, picked) {
  const Plotly = await app.plotly();
  for (const [i, plot] of plots.entries()) {
    if (!plot.isConnected || !plot.clientWidth) continue;   // drawn when its tab is shown
    const height = figures[i].layout?.height || 320;
    const title = figures[i].layout?.title;
    const { data, layout } = dressed(figures[i], node, height);
    if (title && plots.length > 1) Object.assign(layout, { title, margin: { ...layout.margin, t: 44 } });
    plot.style.height = `${height}px`;
    await Plotly.react(plot, data, layout, PLOT_CONFIG);
    plot.removeAllListeners("plotly_click");
    if (figures[i].layout?.meta?.picks) plot.on("plotly_click", (e) => picked(e.points[0]?.customdata));
  }
}
