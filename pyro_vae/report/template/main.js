// The page: what is chosen in it, and what follows from a choice.

const content = JSON.parse($("content").textContent);

function start() {
  const { data } = content, values = unpackData(data.values);
  const size = data.shape.reduce((a, b) => a * b, 1);
  const models = content.models.map((one) => new Model(one, data.shape));
  const state = {
    content, data, models, size,
    painter: new Painter(data),
    model: null, axes: [0, 1], z: null, x: null, index: 0, last: 0, posterior: null,
    redrawn: [],
    diagnose,
    doubtOf,
    datum: (i) => values.subarray(i * size, (i + 1) * size),
    // Pictures that were computed beforehand, of models that the page does not know.
    picture(pack, i) {
      pack.values ??= unpackData(pack.steps);
      return pack.values.subarray(i * size, (i + 1) * size).map((s) => pack.low + (s / 255) * (pack.high - pack.low));
    },
    decode(z) {
      const { model } = state;
      if (model.live) return model.decode(z)[0];
      const { grid, reconstructions } = model.pictures;
      if (!grid || grid.axes.some((d) => !state.axes.includes(d))) return state.picture(reconstructions, state.last);
      const steps = grid.axes.map((d, k) => {
        const line = grid.lines[k];
        return Math.min(line.length - 1, Math.max(0, Math.round(((z[d] - line[0]) / (line.at(-1) - line[0] || 1)) * (line.length - 1))));
      });
      return state.picture(grid.images, steps.reduce((place, step, k) => place * (k ? grid.lines[k].length : 1) + step, 0));
    },
    infer() {
      const { model } = state, known = state.last * model.latents;
      state.posterior = model.live ? model.encode(state.x) : null;
      state.z = Float64Array.from(model.live ? state.posterior.mean : model.points.slice(known, known + model.latents));
      latent.move();
      latent.drawPosterior();
    },
    choose(i, scroll = true) {
      state.index = state.last = i;
      state.x = Float32Array.from(state.datum(i));
      state.infer();
      latent.paintPlane();
      datum.show();
      if (scroll) $("datum").scrollIntoView();
    },
  };
  // A page that does not compute what PyTorch computes must not go on.
  for (const model of models) {
    if (!model.live) continue;
    model.deviation = model.check(state.datum(0));
    model.wrong = model.live.weights.kind === "float32" && !(model.deviation < 0.01);
  }
  const wrong = models.filter((model) => model.wrong).map((model) => model.name).join(", ");
  const warning = wrong ? ` Left out: ${wrong}, of which this page does not compute what PyTorch does.` : "";
  const latent = startLatent(state), datum = startDatum(state);
  models.forEach((model, i) => {
    if (!model.wrong) $("model").append(make("option", { value: i }, model.name));
  });

  function chooseModel(i) {
    datum.stop();
    state.model = models[i];
    const { live, reason, deviation } = state.model;
    $("agreement").textContent = (reason
      ? `Pictures only: ${reason}`
      : live.weights.kind === "float16"
        ? `Weights rounded to float16: ${deviation.toPrecision(1)} nats from PyTorch at a point that both computed.`
        : `This page agrees with PyTorch to ${deviation.toExponential(0)} nats.`) + warning;
    state.z = null;
    $("model").value = i;
    latent.begin();
    datum.begin();
    state.choose(state.last, false);
  }
  $("model").addEventListener("change", () => chooseModel(Number($("model").value)));

  if (content.comparison) startComparison(state);
  const charts = () => {
    if ($("curves")) drawCurves($("curves"), models);
    if (content.comparison) drawForest($("forest"), content.comparison);
    if ($("histogram") && models[0].evidence)
      drawHistogram($("histogram"), models[0].column(models[0].evidence.all));
  };
  if ($("histogram-figure") && !models[0].evidence) $("histogram-figure").remove();
  if (models.length === 1) $("model").parentElement.hidden = true;
  charts();
  window.pyroVae = state;
  const sound = models.filter((model) => !model.wrong);
  if (!sound.length) return ($("explore").textContent = warning);
  const best = sound.find((model) => model.name === content.comparison?.[0].name) ?? sound[0];
  chooseModel(models.indexOf(best));

  const redraw = () => {
    state.painter.refresh();
    charts();
    for (const again of state.redrawn) again();
    latent.redraw();
    datum.begin();
    datum.paint();
  };
  const dark = matchMedia("(prefers-color-scheme: dark)"), root = document.documentElement;
  const isDark = () => (root.dataset.theme ? root.dataset.theme === "dark" : dark.matches);
  const name = () => ($("theme").textContent = isDark() ? "Light" : "Dark");
  $("theme").addEventListener("click", () => {
    root.dataset.theme = isDark() ? "light" : "dark";
    name();
    redraw();
  });
  dark.addEventListener("change", () => (name(), redraw()));
  name();
  let width = innerWidth, waiting;
  addEventListener("resize", () => {
    if (innerWidth === width) return;
    width = innerWidth;
    clearTimeout(waiting);
    waiting = setTimeout(redraw, 150);
  });
}

start();
