// Every datum under two models: its log p(x) under one, and by how much the other is better.

function startComparison(state) {
  const { models, painter } = state, known = models.filter((model) => model.evidence);
  drawForest($("forest"), state.content.comparison);
  if (known.length < 2) return $("scatter-figure").remove();
  const order = state.content.comparison.map((row) => row.name);
  const ranked = [...known].sort((a, b) => order.indexOf(a.name) - order.indexOf(b.name));
  for (const [id, chosen] of [["scatter-a", 1], ["scatter-b", 0]]) {
    ranked.forEach((model, i) => $(id).append(make("option", { value: i }, model.name)));
    $(id).value = chosen;
    $(id).addEventListener("change", draw);
  }
  const side = $("scatter-side"), canvas = make("canvas", { role: "img" }), words = make("div");
  side.append(canvas, words);

  function draw() {
    const a = ranked[$("scatter-a").value], b = ranked[$("scatter-b").value];
    const n = Math.min(a.evidence.number, b.evidence.number);
    const x = a.column(a.evidence.log_px).subarray(0, n), better = b.column(b.evidence.log_px);
    const y = Float32Array.from(x, (v, i) => better[i] - v);
    const wins = y.filter((v) => v > 0).length;
    const chart = frame($("scatter"), {
      x: extent(x),
      y: extent([...y, 0]),
      height: 360,
      xName: `log p(x) under ${a.name}, nats`,
      yName: `log p(x) under ${b.name} minus that under ${a.name}`,
      alternative: `Scatter of ${n} data: ${b.name} gives ${wins} of them a higher log p(x) than ${a.name}. Arrow keys go from datum to datum.`,
    });
    chart.svg.append(shape("path", { class: "mark", d: `M${chart.left} ${chart.toY(0)}H${chart.width - chart.right}` }));
    const points = shape("g", { class: "points" }), ring = shape("circle", { r: 8, class: "mark", visibility: "hidden" });
    const labels = state.content.data.labels;
    for (let i = 0; i < n; i++)
      if (Number.isFinite(x[i]) && Number.isFinite(y[i]))
        points.append(shape("circle", { cx: chart.toX(x[i]).toFixed(1), cy: chart.toY(y[i]).toFixed(1), r: 4, "data-i": i, style: `fill:${colour(0)};opacity:.55` }));
    chart.svg.append(points, ring);
    function show(i) {
      ring.setAttribute("cx", chart.toX(x[i]));
      ring.setAttribute("cy", chart.toY(y[i]));
      ring.setAttribute("visibility", "visible");
      painter.paint(canvas, state.datum(i), `Datum ${i}`);
      words.replaceChildren(
        make("div", {}, `Datum ${i}${labels ? `, class ${labels[i]}` : ""}`),
        make("div", { class: "muted" }, `${a.name} ${fixed(x[i])}`),
        make("div", { class: "muted" }, `${b.name} ${fixed(better[i])}`),
        make("div", {}, `${y[i] > 0 ? "+" : ""}${fixed(y[i])} nats`),
      );
    }
    const byPlace = [...x.keys()].sort((i, j) => x[i] - x[j]);
    let at = byPlace.reduce((best, i, k) => (Math.abs(y[i]) > Math.abs(y[byPlace[best]]) ? k : best), 0);
    points.addEventListener("pointerover", (event) => show((at = byPlace.indexOf(Number(event.target.dataset.i)), byPlace[at])));
    points.addEventListener("click", (event) => state.choose(Number(event.target.dataset.i)));
    chart.svg.setAttribute("tabindex", 0);
    chart.svg.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1 }[event.key];
      if (event.key === "Enter") state.choose(byPlace[at]);
      if (!step) return;
      event.preventDefault();
      show(byPlace[(at = (at + step + n) % n)]);
    });
    show(byPlace[at]);
  }
  draw();
  state.redrawn.push(draw);
}
