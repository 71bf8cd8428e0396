// Charts that do not change: learning curves, differences, histograms.

// ELBO by epoch. The first epochs are far below the rest, and are cut off.
function drawCurves(where, models) {
  const lines = models
    .filter((model) => model.history.epoch)
    .map((model, i) => {
      const valid = [...model.column(model.history.valid_elbo)];
      const known = valid.some(Number.isFinite);
      const y = known ? valid : [...model.column(model.history.train_elbo)];
      return { model, i, known, x: [...model.column(model.history.epoch)], y };
    });
  where.closest("figure").hidden = !lines.length;
  if (!lines.length) return;
  const last = Math.max(...lines.map((line) => line.x.at(-1)));
  const late = lines.flatMap((line) => line.y.slice(Math.floor(line.y.length / 5)));
  const levels = lines.flatMap((line) => (line.model.evidence ? [line.model.evidence.mean] : []));
  const y = extent([...late, ...levels], 0.08);
  const words = lines
    .map((line) => `${line.model.name} ends at ${fixed(line.y.at(-1))} nats`)
    .join("; ");
  const chart = frame(where, {
    x: [Math.min(1, last - 1), last],
    y,
    xName: "epoch",
    yName: `${lines[0].known ? "validation" : "training"} ELBO, nats per datum`,
    right: 132,
    whole: true,
    alternative: `Learning curves: ${words}.`,
  });
  const labels = [];
  for (const line of lines) {
    const points = line.x.map((e, k) => [chart.toX(e), chart.toY(Math.max(line.y[k], y[0]))]);
    chart.svg.append(shape("path", { class: "curve", d: path(points.filter((p) => p.every(Number.isFinite))), style: `stroke:${colour(line.i)}` }));
    const mean = line.model.evidence?.mean;
    if (Number.isFinite(mean)) {
      const at = [chart.toX(last) + 6, chart.toY(mean)];
      chart.svg.append(shape("circle", { cx: at[0], cy: at[1], r: 4, style: `fill:${colour(line.i)}` }));
    }
    labels.push({ y: chart.toY(Number.isFinite(mean) ? mean : line.y.at(-1)), line });
  }
  labels.sort((a, b) => a.y - b.y);
  labels.forEach((label, i) => {
    if (i) label.y = Math.max(label.y, labels[i - 1].y + 15);
    const text = label.line.model.name;
    chart.svg.append(
      shape("text", { x: chart.width - 116, y: label.y + 4, style: `fill:${colour(label.line.i)};font-weight:600` }, text.length > 16 ? `${text.slice(0, 15)}…` : text),
    );
  });
  if (levels.length && labels.length)
    chart.svg.append(shape("text", { x: chart.width - 116, y: labels.at(-1).y + 22 }, "● log p(x)"));
}

// Differences from the best model with two standard errors.
function drawForest(where, rows) {
  const height = 70 + 38 * rows.length;
  const ends = rows.flatMap((row) => [row.difference - 2 * (row.difference_error ?? 0), row.difference + 2 * (row.difference_error ?? 0)]);
  const words = rows
    .map((row, i) => (i ? `${row.name} ${fixed(row.difference)} ± ${fixed(row.difference_error)}` : `${row.name} is best`))
    .join("; ");
  const chart = frame(where, {
    x: extent([...ends, 0], 0.08),
    y: [0, rows.length],
    yTicks: false,
    height,
    left: 130,
    xName: "nats per datum",
    alternative: `Differences from the best model: ${words}.`,
  });
  chart.svg.append(shape("path", { class: "grid", d: `M${chart.toX(0)} 8V${height - 44}` }));
  rows.forEach((row, i) => {
    const y = chart.toY(rows.length - i - 0.5), error = 2 * (row.difference_error ?? 0);
    const name = row.name.length > 17 ? `${row.name.slice(0, 16)}…` : row.name;
    chart.svg.append(shape("text", { class: "value", x: 0, y: y + 4 }, name));
    const a = chart.toX(row.difference - error), b = chart.toX(row.difference + error);
    if (error) chart.svg.append(shape("path", { class: "curve", d: `M${a} ${y}H${b}`, style: `stroke:${colour(0)}` }));
    chart.svg.append(shape("circle", { cx: chart.toX(row.difference), cy: y, r: 5, style: `fill:${colour(0)}` }));
  });
}

// How many data have which log p(x), with a mark for one of them.
function drawHistogram(where, values, mark = null, words = "") {
  const finite = [...values].filter(Number.isFinite);
  if (!finite.length) return where.replaceChildren();
  const [low, high] = extent(finite, 0), bins = Math.min(40, Math.max(8, Math.round(Math.sqrt(finite.length) * 1.5)));
  const step = (high - low) / bins || 1, counts = new Array(bins).fill(0);
  for (const v of finite) counts[Math.min(bins - 1, Math.floor((v - low) / step))]++;
  const marked = Number.isFinite(mark);
  const chart = frame(where, {
    x: extent(marked ? [low, high, mark] : [low, high], 0.03),
    y: [0, Math.max(...counts) * 1.12],
    height: 260,
    left: 40,
    xName: "log p(x), nats",
    yName: "data",
    alternative: `Histogram of log p(x) of ${finite.length} test data, from ${fixed(low, 1)} to ${fixed(high, 1)} nats. ${words}`,
  });
  counts.forEach((count, i) => {
    const x = chart.toX(low + i * step), width = chart.toX(low + (i + 1) * step) - x - 1;
    chart.svg.append(
      shape("rect", { x, y: chart.toY(count), width: Math.max(1, width), height: chart.toY(0) - chart.toY(count), style: `fill:${colour(0)};opacity:${marked ? 0.45 : 0.85}` }),
    );
  });
  if (marked) {
    const x = chart.toX(mark), right = x > chart.width - 210;
    chart.svg.append(shape("path", { class: "mark", d: `M${x} ${chart.top}V${chart.toY(0)}` }));
    chart.svg.append(shape("text", { class: "value", x: x + (right ? -6 : 6), y: chart.top + 10, "text-anchor": right ? "end" : "start" }, words));
  }
}
