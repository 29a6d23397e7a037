/* Tables behind tabs: comparison, requested and effective, text difference, runs, export. */
function tabsPart(app) {
  const tabs = { "Compare": comparePanel(app), "Explain": panelsPart(app), "Requested / effective": effectivePanel(app),
    "Text difference": differencePanel(app), "Runs": runsPanel(app), "Export": exportPanel(app) };
  const bar = h("div", { class: "wb-tabbar", role: "tablist" });
  const node = h("section", { class: "wb-card wb-tabs" }, bar, Object.values(tabs));
  const buttons = {};
  const choose = (name) => {
    for (const [key, panel] of Object.entries(tabs)) {
      panel.hidden = key !== name;
      buttons[key].setAttribute("aria-selected", String(key === name));
    }
    app.shown();
  };
  for (const name of Object.keys(tabs)) {
    buttons[name] = h("button", { class: "wb-tab", type: "button", role: "tab", data: { tab: name },
      on: { click: () => choose(name) } }, name);
    bar.append(buttons[name]);
  }
  app.tab = (name) => { choose(name); node.scrollIntoView({ block: "nearest", behavior: "smooth" }); };
  choose("Compare");
  return node;
}

function tableOf(head, rows, cls) {
  return h("div", { class: "wb-scroll" }, h("table", { class: cls || "" },
    h("thead", {}, h("tr", {}, head.map((c) => h("th", {}, c)))), h("tbody", {}, rows)));
}

function comparePanel(app) {
  const table = h("div", {});
  const node = h("div", { class: "wb-panel", data: { panel: "compare" } }, table,
    chartCard(app, "comparison", "Side by side", 260, "figure_comparison"));
  app.watch("comparison", (c) => draw(table, c, () => {
    if (!(c.runs || []).length) return h("p", { class: "wb-quiet" },
      "Finished runs appear here beside the pinned baseline. The first one is pinned for you.");
    return [c.why && h("p", { class: "wb-explain" }, c.why),
      tableOf(["", ...c.runs.map((r) => h("span", { title: r.id }, r.label,
        r.baseline && h("span", { class: "wb-chip" }, "baseline")))],
      c.rows.map((row) => h("tr", { title: row.help }, h("th", {}, row.label), row.cells.map((cell) =>
        h("td", { title: cell.note || "" }, cell.value === null ?
          h("span", { class: "wb-quiet" }, "n/a") : cell.text,
        cell.verdict && cell.verdict !== "baseline" && h("span", { class: `wb-delta wb-${cell.verdict}` },
          cell.ratio))))), "wb-numbers")];
  }));
  return node;
}

function effectivePanel(app) {
  const node = h("div", { class: "wb-panel", data: { panel: "effective" } });
  app.watch("effective", (rows) => draw(node, rows, () => rows.length ? tableOf(
    ["setting", "requested", "effective", "", "why"], rows.map((r) =>
      h("tr", { class: r.honoured ? "" : "wb-differs" }, h("th", {}, r.path), h("td", {}, r.requested),
        h("td", {}, r.effective), h("td", {}, h("span", { class: `wb-chip ${r.honoured ? "wb-good" : "wb-bad"}` },
          r.honoured ? "as asked" : "differs")), h("td", { class: "wb-reason" }, r.reason)))) :
    h("p", { class: "wb-quiet" }, "After a run: what each setting asked for, and what really ran.")));
  return node;
}

function differencePanel(app) {
  const node = h("div", { class: "wb-panel", data: { panel: "difference" } });
  app.watch("difference", (d) => draw(node, d, () => {
    const side = (key, label) => {
      let first = true;
      return h("div", {}, h("h4", {}, label), h("pre", { class: "wb-text" }, d.parts.map((p) => {
        if (p.op === "equal") return h("span", {}, p[key]);
        const mark = first && h("span", { class: "wb-chip wb-bad wb-first" }, "first difference");
        first = false;
        return [mark, p[key] && h("mark", {}, p[key])];
      })));
    };
    return [h("p", { class: d.same ? "wb-explain wb-same-text" : "wb-explain" }, d.sentence),
      (d.parts || []).length > 0 && h("div", { class: "wb-sides" }, side("a", d.a), side("b", d.b))];
  }));
  return node;
}

function runsPanel(app) {
  const node = h("div", { class: "wb-panel", data: { panel: "runs" } });
  app.watch("history", (rows) => draw(node, rows, () => {
    if (!rows.length) return h("p", { class: "wb-quiet" }, "No runs yet.");
    const act = (verb, r, label) => button(label, "wb-small", () => {
      if (verb === "replay") app.pending("run");
      app.ask(verb, { run: r.id });
    });
    return tableOf(["", "run", "status", "speed", "when", "prompt", ""], rows.map((r) =>
      h("tr", { class: r.shown ? "wb-shown" : "", data: { run: r.id } },
        h("td", {}, r.status === "done" && h("input", { type: "checkbox", class: "wb-pick", value: r.id,
          "aria-label": `compare ${r.label}`, disabled: !r.mine, on: { change: () => app.ask("compare", {
            runs: [...node.querySelectorAll(".wb-pick:checked")].map((b) => b.value) }) } })),
        h("th", { title: r.id }, r.label, r.pinned && h("span", { class: "wb-chip" }, "baseline")),
        h("td", { title: r.error }, r.status), h("td", {}, r.speed), h("td", {}, r.when),
        h("td", { class: "wb-clip" }, r.prompt),
        h("td", { class: "wb-acts" }, act("show", r, "Show"),
          r.status === "done" && act("pin", r, r.pinned ? "Unpin" : "Pin"),
          !["running", "queued"].includes(r.status) && act("replay", r, "Replay")))));
  }));
  return node;
}

function exportPanel(app) {
  const text = h("pre", { class: "wb-text wb-code", tabindex: 0 }, "Choose a form above.");
  const said = h("span", { class: "wb-quiet" });
  const names = { python: "Python", yaml: "YAML", json: "JSON", vllm: "vllm serve",
    "llama-server": "llama-server" };
  const files = { python: "run.py", yaml: "settings.yaml", json: "settings.json", vllm: "vllm.sh",
    "llama-server": "llama-server.sh" };
  let chosen = "python";
  const bar = h("div", { class: "wb-buttons" });
  app.watch("formats", (formats) => bar.replaceChildren(...formats.map((f) =>
    button(names[f] || f, "wb-small", () => app.exportText(f, false), `the settings as ${f}`)),
  h("span", { class: "wb-gap" }),
  button("Copy", "wb-small", async () => {
    said.textContent = (await copyText(text.textContent)) ? "copied" : "select the text and copy it"; }),
  button("Save", "wb-small", () => saveFile(files[chosen] || "settings.txt", "text/plain", text.textContent)),
  button("Save report (HTML)", "wb-small", () => app.ask("report"))));
  app.gotExport = async (message) => {
    chosen = message.format;
    text.textContent = message.text;
    said.textContent = "";
    if (app.copyNext) {
      app.copyNext = false;
      const done = await copyText(message.text);
      said.textContent = done ? "copied" : "select the text and copy it";
      if (done) app.flash("code", "Copied");
      else app.tab("Export");
    }
  };
  return h("div", { class: "wb-panel", data: { panel: "export" } }, bar, said, text);
}
