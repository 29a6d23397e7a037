/* The text as it comes, and the key figures beside the baseline's. Text is text: never markup. */
function outputPart(app) {
  const head = h("div", { class: "wb-output-head" });
  const body = h("pre", { class: "wb-text", tabindex: 0, "aria-label": "output", "aria-live": "off" });
  const legend = h("div", { class: "wb-legend" }, h("span", {}, h("i", { class: "wb-from-draft" }),
    "drafted and accepted"), h("span", {}, h("i", { class: "wb-from-bonus" }), "the target's own"));
  app.watch("text", (t) => {
    const atEnd = body.scrollHeight - body.scrollTop - body.clientHeight < 40;
    const drafted = (t.sequences || []).some((s) => s.some(([source]) => source === "draft"));
    legend.hidden = !drafted;
    draw(head, [t.label, t.run], () => t.run ? [h("h3", {}, "Output"),
      h("span", { class: "wb-quiet", title: t.run }, t.label)] : [h("h3", {}, "Output")]);
    draw(body, t, () => {
      if (!t.run) return h("span", { class: "wb-quiet" }, "The model's text appears here, token by token.");
      return (t.sequences || []).map((pieces, i) => [
        (t.sequences.length > 1) && h("span", { class: "wb-sequence" }, `sequence ${i + 1}`),
        h("span", { class: "wb-given" }, i === 0 || t.sequences.length === 1 ? t.prompt : ""),
        pieces.map(([source, text, step]) => source === "plain" ? h("span", {}, text) :
          h("span", { class: `wb-from-${source}`, data: { odd: step % 2 ? "1" : "" },
            title: `step ${step}: ${source}` }, text)),
        (i < t.sequences.length - 1) && "\n\n"]).concat(
        (t.sequences || []).length ? [] : [h("span", { class: "wb-given" }, t.prompt)]);
    });
    if (atEnd) body.scrollTop = body.scrollHeight;
  });
  return h("section", { class: "wb-card wb-output" }, head, body, legend);
}

function tilesPart(app) {
  const node = h("div", { class: "wb-tiles", "aria-label": "key figures" });
  app.watch("tiles", (tiles) => draw(node, tiles, () => tiles.map((t) => {
    const missing = t.text === "n/a";
    return h("div", { class: `wb-tile ${missing ? "wb-missing" : ""}`, data: { tile: t.name },
      title: [t.help, t.reason].filter(Boolean).join("; ") },
      h("div", { class: "wb-key" }, t.label),
      h("div", { class: "wb-value" }, t.text),
      h("div", { class: `wb-delta wb-${t.verdict || "none"}` },
        [t.remarks, t.ratio && `${t.ratio} baseline`,
          missing && t.reason].filter(Boolean).join(", ")));
  })));
  return node;
}
