// Pictures of data, and charts as SVG whose colours follow the theme.

const $ = (id) => document.getElementById(id);
const minus = (text) => String(text).replace("-", "−");
const fixed = (value, digits = 2) =>
  value === null || Number.isNaN(value) ? "–" : Number.isFinite(value) ? minus(value.toFixed(digits)) : minus(value) === "Infinity" ? "∞" : "−∞";
const colour = (i) => `var(--c${((i % 10) + 10) % 10})`;

// An HTML or, with a leading "svg:", an SVG element; text goes in as text, never as markup.
function make(name, attributes = {}, ...children) {
  const drawn = name.startsWith("svg:");
  const element = drawn
    ? document.createElementNS("http://www.w3.org/2000/svg", name.slice(4))
    : document.createElement(name);
  for (const [key, value] of Object.entries(attributes))
    if (key === "style") element.style.cssText = value;
    else element.setAttribute(key, value);
  element.append(...children);
  return element;
}
const shape = (name, attributes, ...children) => make(`svg:${name}`, attributes, ...children);

// Theme's colours as numbers, for pictures.
function themeColour(name) {
  const probe = make("span", { style: `color: var(${name})` });
  document.body.append(probe);
  const found = getComputedStyle(probe).color.match(/[\d.]+/g).slice(0, 3).map(Number);
  probe.remove();
  return found;
}

// Draws values of the data's shape: images as pixels, anything else as a row of bars.
class Painter {
  constructor(data) {
    const dims = data.shape;
    this.binary = data.values.kind === "bits";
    const unit = data.low >= 0 && data.high <= 1;
    [this.low, this.high] = unit ? [0, 1] : [data.low, data.high];
    const channels = dims.length === 3 ? dims[0] : 1;
    this.image = (dims.length === 2 || (dims.length === 3 && [1, 3].includes(channels))) && dims.at(-1) > 1;
    this.channels = channels;
    [this.height, this.width] = this.image ? dims.slice(-2) : [1, dims.reduce((a, b) => a * b, 1)];
    this.editable = this.image && channels === 1 && unit;
    this.refresh();
  }

  refresh() {
    this.dark = this.binary || !this.image ? themeColour("--raised") : [0, 0, 0];
    this.light = this.binary || !this.image ? themeColour("--ink") : [255, 255, 255];
  }

  pixels(values) {
    const { width, height, channels } = this, size = width * height;
    const picture = new ImageData(width, height);
    for (let i = 0; i < size; i++) {
      for (let c = 0; c < 3; c++) {
        const value = values[channels === 3 ? c * size + i : i];
        const t = Math.min(1, Math.max(0, (value - this.low) / (this.high - this.low || 1)));
        picture.data[4 * i + c] = this.dark[c] + t * (this.light[c] - this.dark[c]);
      }
      picture.data[4 * i + 3] = 255;
    }
    return picture;
  }

  paint(canvas, values, alternative) {
    if (alternative !== undefined) canvas.setAttribute("aria-label", alternative);
    if (!this.image) return this.bars(canvas, values);
    canvas.width = this.width;
    canvas.height = this.height;
    canvas.getContext("2d").putImageData(this.pixels(values), 0, 0);
  }

  bars(canvas, values) {
    const n = this.width, unit = Math.max(4, Math.floor(240 / n));
    canvas.width = n * unit;
    canvas.height = Math.round(canvas.width * 0.75);
    const context = canvas.getContext("2d"), y = (v) =>
      canvas.height * (1 - (v - this.low) / (this.high - this.low || 1));
    const zero = Math.min(canvas.height, Math.max(0, y(0)));
    context.fillStyle = `rgb(${this.light})`;
    for (let i = 0; i < n; i++) {
      const top = Math.min(canvas.height, Math.max(0, y(values[i])));
      context.fillRect(i * unit, Math.min(top, zero), unit - 1, Math.max(1, Math.abs(top - zero)));
    }
  }
}

function ticks(low, high, number = 5) {
  const raw = (high - low) / number || 1, power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map((m) => m * power).find((s) => s >= raw);
  const places = [];
  for (let t = Math.ceil(low / step - 1e-9) * step; t <= high + step * 1e-9; t += step)
    places.push(Math.abs(t) < step / 1e6 ? 0 : t);
  return { places, digits: Math.max(0, -Math.floor(Math.log10(step) + 1e-9)) };
}

// A chart's frame: scales, axes with round numbers, and an alternative text.
function frame(where, options) {
  const { x, y, alternative, xName = "", yName = "", height = 300, log = false } = options;
  const width = Math.max(260, where.clientWidth || 520);
  const left = options.left ?? 56, right = options.right ?? 16, bottom = 44, top = yName ? 26 : 12;
  const place = (v) => (log ? Math.log10(v) : v);
  const spanX = place(x[1]) - place(x[0]) || 1, spanY = y[1] - y[0] || 1;
  const toX = (v) => left + ((place(v) - place(x[0])) / spanX) * (width - left - right);
  const toY = (v) => height - bottom - ((v - y[0]) / spanY) * (height - bottom - top);
  const svg = shape("svg", { viewBox: `0 0 ${width} ${height}`, width, height, role: "img", "aria-label": alternative });
  if (options.yTicks !== false) {
    const { places, digits } = ticks(y[0], y[1]);
    for (const v of places) {
      svg.append(shape("path", { class: "axis", d: `M${left} ${toY(v)}H${width - right}` }));
      svg.append(shape("text", { x: left - 8, y: toY(v) + 4, "text-anchor": "end" }, fixed(v, digits)));
    }
  }
  const across = log
    ? { places: [10, 30, 100, 300, 1000, 3000, 10000, 30000].filter((v) => v >= x[0] && v <= x[1]), digits: 0 }
    : ticks(x[0], x[1], Math.min(6, width / 80));
  if (options.whole) across.places = across.places.filter(Number.isInteger);
  if (options.whole) across.digits = 0;
  for (const v of across.places)
    svg.append(
      shape("text", { x: toX(v), y: height - bottom + 18, "text-anchor": "middle" }, log ? v.toLocaleString("en") : fixed(v, across.digits)),
    );
  svg.append(shape("text", { x: width - right, y: height - 4, "text-anchor": "end" }, xName));
  svg.append(shape("text", { x: 0, y: 11 }, yName));
  where.replaceChildren(svg);
  return { svg, toX, toY, left, right, top, bottom, width, height };
}

const path = (points) => points.map(([x, y], i) => `${i ? "L" : "M"}${x.toFixed(1)} ${y.toFixed(1)}`).join("");

function extent(values, margin = 0.05) {
  let low = Infinity, high = -Infinity;
  for (const v of values)
    if (Number.isFinite(v)) {
      low = Math.min(low, v);
      high = Math.max(high, v);
    }
  if (low > high) return [0, 1];
  const pad = (high - low) * margin || 1;
  return [low - pad, high + pad];
}
