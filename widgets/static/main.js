/* One view: builds the parts, listens to the model, sends what the user wants. */
function makeApp(model, root) {
  const shows = [], ends = [];
  let number = 0, silence = null, held = null;
  const app = {
    model, root, waiting: "", said: null, silent: false, copyNext: false,
    drawStatus() {}, tab() {}, redrawControls() {}, gotExport() {}, prompt: () => "",
    watch(name, f) {
      const call = () => f(model.get(name));
      model.on(`change:${name}`, call);
      ends.push(() => model.off(`change:${name}`, call));
      call();
    },
    onShow: (f) => shows.push(f),
    onEnd: (f) => ends.push(f),
    shown: () => shows.forEach((f) => f()),
    end: () => ends.forEach((f) => f()),
    plotly: () => needPlotly(app),
    ask(verb, more) {
      app.said = null;
      model.send({ do: verb, id: ++number, ...more });
      clearTimeout(silence);
      silence = setTimeout(() => { app.silent = true; app.drawStatus(); }, 2500);
      app.drawStatus();
    },
    pending(what) {
      app.waiting = what;
      app.drawStatus();
    },
    preview(path, value) {       // at most one every 80 ms, always the last one
      const waitingAlready = held !== null;
      held = { path, value };
      if (!waitingAlready) setTimeout(() => { model.send({ do: "preview", ...held }); held = null; }, 80);
    },
    exportText(format, copy, prompt) {
      app.copyNext = copy;
      app.ask("export", { format, prompt: prompt ?? app.prompt() });
    },
    flash(name, text) {
      const node = root.querySelector(`[data-button="${name}"]`);
      const before = node.textContent;
      node.textContent = text;
      setTimeout(() => { node.textContent = before; }, 1400);
    },
    heard(message, buffers) {
      clearTimeout(silence);
      app.silent = false;
      if (message.kind === "plotly") gotPlotly(buffers[0]);
      else if (message.kind === "export") app.gotExport(message);
      else if (message.kind === "file") saveFile(message.name, message.type, buffers[0]);
      else if (message.kind === "say") {
        app.said = message;
        if (message.path) app.redrawControls();   // the field shows a value that was refused
      }
      else if (message.kind === "done") app.waiting = "";
      app.drawStatus();
    },
  };
  model.on("msg:custom", app.heard);
  ends.push(() => model.off("msg:custom", app.heard));
  return app;
}

function header(app) {
  const node = h("header", { class: "wb-head" });
  app.watch("about", (a) => draw(node, a, () => [
    h("span", { class: "wb-brand" }, "Inference Workbench"),
    h("span", { class: "wb-model" }, a.model), h("span", { class: "wb-quiet" }, a.size),
    h("span", { class: "wb-machine", title: a.machine }, a.machine)]));
  return node;
}

function render({ model, el }) {
  const root = h("div", { class: "wb", "data-lm-suppress-shortcuts": "true" });
  const app = makeApp(model, root);
  root.append(header(app), h("div", { class: "wb-grid" },
    h("aside", { class: "wb-side" }, forecastPart(app), controlsPart(app)),
    h("main", { class: "wb-stage" }, promptPart(app), outputPart(app), tilesPart(app),
      chartsPart(app), tabsPart(app))));
  el.replaceChildren(root);
  const seen = new ResizeObserver(() => { if (root.isConnected) app.shown(); });
  seen.observe(root);
  return () => { seen.disconnect(); app.end(); };
}

export default { render };
