/* Knobs, generated from the session's list. Dragging previews the forecast; letting go sets. */
function controlsPart(app) {
  const node = h("div", { class: "wb-controls" });
  const open = new Map();
  const redraw = (groups) => {
    const active = node.contains(document.activeElement) ? document.activeElement : null;
    const focused = active?.dataset.path;
    // Words that are being typed outlive a redraw that an earlier change caused.
    const typed = active?.dataset.taken !== undefined && active.value !== active.dataset.taken
      ? active.value : null;
    node.replaceChildren(...groups.map((group) => {
      const details = h("details", { class: "wb-group", data: { group: group.name } },
        h("summary", {}, h("span", {}, group.title),
          group.changed && h("span", { class: "wb-dot", title: "differs from the default" })),
        group.controls.map((c) => oneControl(app, c, group)));
      details.open = open.get(group.name) ?? (group.open || group.changed);
      details.addEventListener("toggle", () => open.set(group.name, details.open));
      return details;
    }));
    const again = focused && node.querySelector(`[data-path="${CSS.escape(focused)}"]`);
    if (again) again.focus();
    if (again && typed !== null) again.value = typed;
  };
  app.watch("controls", redraw);
  app.redrawControls = () => redraw(app.model.get("controls"));
  return node;
}

function oneControl(app, c, group) {
  const main = c.path === group.name;
  const set = (value) => app.ask("set", { path: c.path, value });
  const field = { choice: choiceField, boolean: booleanField, integer: numberField,
    number: numberField, string: stringField }[c.kind](app, c, set);
  const why = Object.entries(c.unavailable || {});
  return h("div", { class: `wb-control ${main ? "wb-main" : ""}`, data: { control: c.path } },
    c.kind !== "boolean" && h("label", { class: "wb-label" },
      h("span", {}, main ? "method" : c.label), c.unit && h("span", { class: "wb-unit" }, c.unit)),
    field,
    h("div", { class: "wb-help" }, c.help),
    why.length > 0 && h("details", { class: "wb-why" },
      h("summary", {}, `${why.length} not available here`),
      why.map(([name, reason]) => h("div", {}, h("b", {}, name), ": ", reason))));
}

function choiceField(app, c, set) {
  const select = h("select", { class: "wb-input", data: { path: c.path }, "aria-label": c.path,
    on: { change: (e) => set(c.choices[e.target.selectedIndex]) } },
    c.choices.map((name) => h("option", { value: String(name), disabled: name in (c.unavailable || {}),
      title: (c.unavailable || {})[name] },
      String(name) + (name in (c.unavailable || {}) ? " (not here)" : ""))));
  select.selectedIndex = c.choices.findIndex((x) => x === c.value);
  return select;
}

function booleanField(app, c, set) {
  return h("label", { class: "wb-check" },
    h("input", { type: "checkbox", checked: c.value, data: { path: c.path },
      on: { change: (e) => set(e.target.checked) } }), c.label);
}

function stringField(app, c, set) {
  const input = h("input", { class: "wb-input", type: "text", data: { path: c.path },
    "aria-label": c.path, spellcheck: "false", on: { change: (e) => set(e.target.value) } });
  input.value = c.value;
  return input;
}

function numberField(app, c, set) {
  const take = (e) => {          // Enter or leaving the field; a browser may report only one of them
    if (e.target.value === "" || e.target.value === number.dataset.taken) return;
    number.dataset.taken = e.target.value;
    if (range) range.value = e.target.value;
    set(Number(e.target.value));
  };
  const number = h("input", { class: "wb-input wb-number", type: "number", data: { path: c.path, taken: String(c.value) },
    min: c.least ?? undefined, max: c.most ?? undefined, step: "any", "aria-label": c.path,
    on: { change: take, keydown: (e) => { if (e.key === "Enter") take(e); } } });
  let range = null;
  number.value = c.value;
  if (c.low === null || c.high === null) return number;
  const step = c.step || (c.kind === "integer" ? 1 : (c.high - c.low) / 100);
  range = h("input", { class: "wb-range", type: "range", min: c.low, max: c.high, step,
    "aria-label": `${c.path} slider`, data: { slider: c.path },
    on: {
      input: (e) => { number.value = e.target.value; app.preview(c.path, Number(e.target.value)); },
      change: (e) => { number.dataset.taken = e.target.value; set(Number(e.target.value)); },
    } });
  range.value = c.value;
  return h("div", { class: "wb-slide" }, range, number);
}
