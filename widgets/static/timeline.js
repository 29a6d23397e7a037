/* One canvas: marks of the asked window, drawn again while dragging and asked anew when the hand rests. */
const HUES = [210, 38, 160, 320, 200, 14, 262, 100, 340, 60];

function hash(text) {
  let h = 0;
  for (let i = 0; i < text.length; i += 1) h = (h * 31 + text.charCodeAt(i)) | 0;
  return Math.abs(h);
}

function said(us) {
  if (us >= 1e6) return `${(us / 1e6).toPrecision(4)} s`;
  if (us >= 1e3) return `${(us / 1e3).toPrecision(4)} ms`;
  return `${us.toPrecision(4)} µs`;
}

function render({ model, el }) {
  const rows = model.get("lanes");
  const span = model.get("span");
  const high = 18, left = 190, top = 22;
  const box = document.createElement("div");
  const canvas = document.createElement("canvas");
  const tip = document.createElement("div");
  box.className = "wb-timeline";
  box.style.cssText = "position:relative;font:12px system-ui,sans-serif;overflow:auto;max-height:520px";
  tip.style.cssText = "position:absolute;pointer-events:none;padding:3px 6px;border-radius:4px;background:#222;color:#fff;"
    + "display:none;max-width:420px;z-index:2;overflow-wrap:anywhere";
  canvas.tabIndex = 0;
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", `Timeline of ${model.get("title")}: arrow keys move, plus and minus zoom, 0 shows all`);
  canvas.style.cssText = "width:100%;display:block;cursor:grab";
  const hint = document.createElement("div");
  hint.textContent = "Drag to move; Ctrl and wheel, double click, + and - to zoom; 0 shows all.";
  hint.style.cssText = "opacity:0.7;padding:2px 0 4px";
  box.append(hint, canvas, tip);
  el.append(box);
  let view = [0, span], held = { start: 0, end: span, count: 0, names: [] }, ticket = 0, timer = null, stopped = false;

  const width = () => Math.max(50, canvas.clientWidth - left);
  const toX = (t) => left + ((t - view[0]) / (view[1] - view[0])) * width();

  function ask() {
    clearTimeout(timer);
    timer = setTimeout(() => {
      ticket += 1;
      const pad = (view[1] - view[0]) / 2;  // a little more than is seen, so that a drag shows marks at once
      model.send({ start: view[0] - pad, end: view[1] + pad, width: Math.round(2 * width()), ticket });
    }, 40);
  }

  function draw() {
    if (stopped) return;
    const scale = window.devicePixelRatio || 1;
    const w = canvas.clientWidth, h = top + rows.length * high + 4;
    canvas.style.height = `${h}px`;
    canvas.width = Math.round(w * scale);
    canvas.height = Math.round(h * scale);
    const pen = canvas.getContext("2d");
    pen.scale(scale, scale);
    const ink = getComputedStyle(el).color || "#555";
    pen.font = "11px system-ui,sans-serif";
    pen.textBaseline = "middle";
    ticks(pen, ink, h);
    pen.save();
    pen.beginPath();
    pen.rect(left, 0, w - left, h);
    pen.clip();
    const { ts, dur, lane, name, count, names } = held;
    for (let i = 0; i < (ts ? ts.length : 0); i += 1) {
      const a = toX(held.start + ts[i]), b = Math.max(a + 0.7, toX(held.start + ts[i] + dur[i]));
      if (b < left || a > w) continue;
      const y = top + lane[i] * high, text = names[name[i]];
      pen.fillStyle = `hsl(${HUES[hash(text) % HUES.length]} 60% ${count[i] > 1 ? 62 : 48}%)`;
      pen.fillRect(a, y + 1, b - a, high - 3);
      if (b - a > 44 && count[i] === 1) {
        pen.fillStyle = "#fff";
        pen.fillText(text.slice(0, Math.floor((b - a) / 6.2)), Math.max(a, left) + 3, y + high / 2);
      }
    }
    pen.restore();
    pen.fillStyle = ink;
    rows.forEach((row, i) => pen.fillText(row.length > 30 ? `${row.slice(0, 29)}…` : row, 2, top + i * high + high / 2));
  }

  function ticks(pen, ink, h) {
    const size = view[1] - view[0];
    const raw = size / 6, base = 10 ** Math.floor(Math.log10(raw));
    const step = [1, 2, 5, 10].map((k) => k * base).find((k) => k >= raw);
    pen.strokeStyle = "rgba(128,138,150,0.25)";
    pen.fillStyle = ink;
    for (let t = Math.ceil(view[0] / step) * step; t <= view[1]; t += step) {
      const x = toX(t);
      pen.beginPath();
      pen.moveTo(x, top - 4);
      pen.lineTo(x, h);
      pen.stroke();
      pen.fillText(said(Math.max(t, 0)), x + 2, 9);
    }
  }

  function move(start, end) {
    const size = Math.min(Math.max(end - start, 0.05), span * 1.05);
    const from = Math.min(Math.max(start, -0.02 * span), span * 1.02 - size * 0.98);
    view = [from, from + size];
    draw();
    ask();
  }

  function zoom(factor, x) {
    const at = view[0] + ((x - left) / width()) * (view[1] - view[0]);
    move(at - (at - view[0]) * factor, at + (view[1] - at) * factor);
  }

  model.on("msg:custom", (message, buffers) => {
    if (message.kind !== "marks" || message.ticket !== ticket) return;
    const view8 = buffers[0];
    const data = new DataView(view8.buffer, view8.byteOffset, view8.byteLength);
    const n = data.byteLength / 20;
    const next = { start: message.start, end: message.end, names: message.names, ts: new Float32Array(n),
      dur: new Float32Array(n), count: new Float32Array(n), lane: new Int32Array(n), name: new Int32Array(n) };
    for (let i = 0; i < n; i += 1) {
      next.ts[i] = data.getFloat32(20 * i, true);
      next.dur[i] = data.getFloat32(20 * i + 4, true);
      next.count[i] = data.getFloat32(20 * i + 8, true);
      next.lane[i] = data.getInt32(20 * i + 12, true);
      next.name[i] = data.getInt32(20 * i + 16, true);
    }
    held = next;
    canvas.dataset.marks = n;
    draw();
  });

  canvas.addEventListener("wheel", (event) => {
    if (!event.ctrlKey && !event.metaKey) return;  // a page that scrolls past must not zoom
    event.preventDefault();
    zoom(event.deltaY > 0 ? 1.25 : 0.8, event.offsetX);
  }, { passive: false });
  canvas.addEventListener("dblclick", (event) => zoom(0.4, event.offsetX));
  let dragged = null;
  canvas.addEventListener("pointerdown", (event) => {
    dragged = { x: event.offsetX, view: [...view] };
    canvas.setPointerCapture(event.pointerId);
  });
  canvas.addEventListener("pointerup", () => { dragged = null; });
  canvas.addEventListener("pointermove", (event) => {
    if (dragged) {
      const by = ((dragged.x - event.offsetX) / width()) * (dragged.view[1] - dragged.view[0]);
      move(dragged.view[0] + by, dragged.view[1] + by);
      return;
    }
    point(event.offsetX, event.offsetY);
  });
  canvas.addEventListener("pointerleave", () => { tip.style.display = "none"; });
  canvas.addEventListener("keydown", (event) => {
    const size = view[1] - view[0], middle = left + width() / 2;
    const done = { ArrowLeft: () => move(view[0] - size / 5, view[1] - size / 5),
      ArrowRight: () => move(view[0] + size / 5, view[1] + size / 5), "+": () => zoom(0.7, middle),
      "-": () => zoom(1.4, middle), 0: () => move(0, span) }[event.key];
    if (!done) return;
    event.preventDefault();
    done();
  });

  function point(x, y) {
    const lane = Math.floor((y - top) / high);
    const { ts, dur } = held;
    let best = -1;
    for (let i = 0; i < (ts ? ts.length : 0); i += 1) {
      if (held.lane[i] !== lane) continue;
      const a = toX(held.start + ts[i]), b = toX(held.start + ts[i] + dur[i]);
      if (x >= a - 1 && x <= b + 1 && (best < 0 || dur[i] < dur[best])) best = i;
    }
    tip.style.display = best < 0 ? "none" : "block";
    if (best < 0) return;
    const many = held.count[best] > 1 ? ` and ${held.count[best] - 1} more near it` : "";
    tip.textContent = `${held.names[held.name[best]]}${many}: ${said(dur[best])} at ${said(held.start + ts[best])}`;
    tip.style.left = `${Math.min(x + 12, Math.max(0, canvas.clientWidth - 300))}px`;
    tip.style.top = `${y + 38}px`;
  }

  const watcher = new ResizeObserver(() => { draw(); ask(); });
  watcher.observe(box);
  draw();
  ask();
  return () => { stopped = true; watcher.disconnect(); };
}
export default { render };
