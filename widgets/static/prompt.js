/* The prompt and the buttons. A click shows at once that it was heard, whatever the kernel does. */
function promptPart(app) {
  const area = h("textarea", { class: "wb-prompt", rows: 4, spellcheck: "false", "aria-label": "prompt",
    placeholder: "Write a prompt, or choose one above." });
  area.value = app.model.get("prompt");
  area.addEventListener("keydown", (e) => {
    e.stopPropagation();   // the notebook's own shortcuts stay out of the prompt
    if (e.key === "Enter" && (e.ctrlKey || e.metaKey)) { e.preventDefault(); run.click(); }
  });
  const menu = h("select", { class: "wb-input wb-menu", "aria-label": "bundled prompts", on: {
    change: (e) => {
      const chosen = app.model.get("prompts")[e.target.selectedIndex - 1];
      if (chosen) area.value = chosen.text;
      e.target.selectedIndex = 0;
    } } });
  app.watch("prompts", (prompts) => menu.replaceChildren(
    h("option", {}, "Bundled prompts"), ...prompts.map((p) =>
      h("option", {}, `${p.kind}: ${p.text.replace(/\s+/g, " ").slice(0, 60)}`))));

  const run = button("Run", "wb-primary", () => {
    app.pending("run");
    app.ask("run", { prompt: area.value });
  }, "Ctrl+Enter");
  const cancel = button("Cancel", "wb-danger", () => { app.pending("cancel"); app.ask("cancel"); });
  const pin = button("Pin baseline", "", () => app.ask("pin", { run: app.model.get("status").run }));
  const compare = button("Compare", "", () => app.tab("Compare"));
  const save = button("Export", "", () => app.tab("Export"));
  const code = button("Copy as code", "wb-plain", () => app.exportText("python", true, area.value));
  for (const [node, name] of [[run, "run"], [cancel, "cancel"], [pin, "pin"], [compare, "compare"],
    [save, "export"], [code, "code"]]) node.dataset.button = name;

  const word = h("span", { class: "wb-word" });
  const sentence = h("span", { class: "wb-sentence", role: "status" });
  const bar = h("div", { class: "wb-progress" }, h("span", {}));
  const line = h("div", { class: "wb-status" }, word, sentence);
  app.prompt = () => area.value;

  app.drawStatus = () => {
    const s = app.model.get("status");
    const waiting = app.waiting;
    const said = app.said;
    const level = waiting ? "busy" : said ? said.level : s.level;
    line.dataset.level = level;
    word.textContent = waiting === "run" ? "starting" : waiting === "cancel" ? "cancelling" : said ?
      "not done" : s.word;
    sentence.textContent = app.silent ? "The kernel has not answered yet: another cell may be " +
      "running, or it was restarted (then run this cell again)." : waiting ? "" : said ? said.text :
      s.sentence;
    const moving = s.busy || Boolean(waiting);
    run.disabled = waiting === "run";
    cancel.disabled = !moving;
    pin.disabled = !s.run || s.busy;
    bar.dataset.on = moving ? "1" : "";
    bar.firstChild.style.width = s.done === null || s.done === undefined ? "" : `${100 * s.done}%`;
    bar.dataset.unknown = moving && (s.done === null || s.done === undefined) ? "1" : "";
    const row = (app.model.get("history") || []).find((r) => r.id === s.run);
    pin.textContent = row && row.pinned ? "Unpin baseline" : "Pin baseline";
    app.root.dataset.state = waiting || s.word;
  };
  app.watch("status", app.drawStatus);
  app.watch("history", app.drawStatus);

  return h("section", { class: "wb-card wb-ask" },
    h("div", { class: "wb-ask-head" }, h("h3", {}, "Prompt"), menu), area,
    h("div", { class: "wb-buttons" }, run, cancel, h("span", { class: "wb-gap" }), pin, compare,
      save, code),
    bar, line);
}
