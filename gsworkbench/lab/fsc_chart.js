// FSC curves in SVG: pointing reads them in A, a click sets the low-pass of the display.
const NS = "http://www.w3.org/2000/svg", W = 560, H = 330, L = 46, R = 12, T = 10, B = 42;
function add(parent, kind, attributes, text) {
  const node = document.createElementNS(NS, kind);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  if (text !== undefined) node.textContent = text;
  parent.appendChild(node);
  return node;
}
function render({ model, el }) {
  const svg = add(el, "svg", { viewBox: `0 0 ${W} ${H}`, class: "gsw-fsc", style: "width:100%;max-width:640px;cursor:crosshair;font:11px sans-serif" });
  const legend = document.createElement("div");
  legend.style.cssText = "font:12px sans-serif;line-height:1.35";
  el.appendChild(legend);
  let x, nyquist;
  const y = (v) => T + (1 - (v + 0.05) / 1.1) * (H - T - B);
  function draw() {
    svg.replaceChildren();
    const curves = model.get("curves");
    nyquist = model.get("nyquist");
    x = (s) => L + (s * nyquist) * (W - L - R);
    for (const v of [0, 0.143, 0.5, 1]) {
      add(svg, "line", { x1: L, x2: W - R, y1: y(v), y2: y(v), stroke: "#aaa", "stroke-dasharray": v % 1 ? "4 3" : "" });
      add(svg, "text", { x: L - 5, y: y(v) + 4, "text-anchor": "end", fill: "#555" }, v);
    }
    for (const part of [0.25, 0.5, 0.75, 1])
      add(svg, "text", { x: x(part / nyquist), y: H - B + 16, "text-anchor": part == 1 ? "end" : "middle", fill: "#555" },
          (nyquist / part).toFixed(1) + " Å" + (part == 1 ? " Nyquist" : ""));
    add(svg, "text", { x: (L + W) / 2, y: H - 6, "text-anchor": "middle", fill: "#555" }, "resolution (linear in 1/Å); click to low-pass the display there");
    for (const curve of curves) {
      const points = curve.values.map((v, i) => v === null ? "" : `${x(curve.step * i).toFixed(1)},${y(v).toFixed(1)}`).join(" ");
      add(svg, "polyline", { points, fill: "none", stroke: curve.colour, "stroke-width": 1.8, "stroke-opacity": curve.faint ? 0.35 : 1, class: "gsw-curve" });
    }
    const cut = model.get("lowpass");
    if (cut > 0) add(svg, "line", { x1: x(1 / cut), x2: x(1 / cut), y1: T, y2: H - B, stroke: "#D55E00", "stroke-dasharray": "2 2" });
    say(null);
  }
  function say(at) {
    legend.replaceChildren(...model.get("curves").map((curve) => {
      const line = document.createElement("div");
      const value = at === null ? "" : "  " + (curve.values[Math.round(at / curve.step)] ?? NaN).toFixed(3);
      line.innerHTML = '<span style="color:' + curve.colour + ';opacity:' + (curve.faint ? 0.5 : 1) + '">━━</span> ';
      line.append(curve.label + value);
      return line;
    }));
    const line = document.createElement("div");
    line.className = "gsw-hover";
    line.textContent = at === null ? " " : `at ${(1 / at).toFixed(2)} Å`;
    legend.appendChild(line);
  }
  const frequency = (event) => {
    const box = svg.getBoundingClientRect();
    const s = ((event.clientX - box.left) * W / box.width - L) / (W - L - R) / nyquist;
    return s > 0 && s * nyquist <= 1 ? s : null;
  };
  svg.addEventListener("mousemove", (event) => say(frequency(event)));
  svg.addEventListener("mouseleave", () => say(null));
  svg.addEventListener("click", (event) => {
    const s = frequency(event);
    model.set("lowpass", s === null ? 0 : Math.round(10 / s) / 10);
    model.save_changes();
  });
  model.on("change:curves", draw);
  model.on("change:lowpass", draw);
  draw();
  model.send({ shown: true });  // the page is there: what changed while it loaded did not reach it (page.py)
}
export default { render };
