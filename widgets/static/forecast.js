/* What the chosen settings will cost before anything runs: each number with its doubt and basis. */
function forecastPart(app) {
  const node = h("section", { class: "wb-card wb-forecast", "aria-label": "forecast" });
  app.watch("forecast", (f) => draw(node, f, () => [
    h("h3", {}, "Forecast"),
    f.error && h("p", { class: "wb-bad" }, f.error),
    (f.rows || []).length > 0 && h("div", { class: "wb-estimates" }, f.rows.map((row) =>
      h("div", { class: "wb-estimate", title: row.basis, data: { name: row.name } },
        h("span", { class: "wb-key" }, row.label), h("span", { class: "wb-value" }, row.text),
        h("span", { class: "wb-range-text" }, row.range || row.reason),
        row.measured && h("span", { class: "wb-range-text wb-measured" }, `measured ${row.measured}`)))),
    (f.tiers || []).map((tier) => h("div", { class: `wb-tier ${tier.fits ? "" : "wb-full"}` },
      h("div", { class: "wb-tier-head" }, h("span", {}, tier.label), h("span", {}, tier.text)),
      h("div", { class: "wb-bar" }, tier.parts.map((p) => h("span", {
        class: `wb-part wb-use-${p.use}`, style: `width:${p.percent}%`,
        title: `${p.use} ${p.text}` }))),
      h("div", { class: "wb-legend" }, tier.parts.map((p) =>
        h("span", {}, h("i", { class: `wb-use-${p.use}` }), `${p.use} ${p.text}`))))),
    f.basis && h("p", { class: "wb-help" }, [f.basis, ...f.notes].join("; ")),
  ]));
  return node;
}
