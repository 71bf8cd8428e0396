// The latent space: a plane of two latents, and sliders for all of them.

function startLatent(state) {
  const plane = $("plane"), sliders = $("sliders"), { painter } = state;
  let span, side, labels, view = {};

  const latent = (d) => `z${d + 1}`;
  const toX = (v) => ((v - span[0][0]) / (span[0][1] - span[0][0])) * side;
  const toY = (v) => side - ((v - span[1][0]) / (span[1][1] - span[1][0])) * side;
  const code = (i, d) => {
    const { points, latents } = state.model;
    return d < latents ? points[i * latents + d] : ((i * 0.618034) % 1) * 2 - 1;
  };

  function begin() {
    const { model } = state, active = [...model.variances.keys()];
    active.sort((a, b) => model.variances[b] - model.variances[a]);
    state.axes = model.latents > 1 ? [active[0], active[1]].sort((a, b) => a - b) : [0, 1];
    for (const [k, id] of ["axis-x", "axis-y"].entries()) {
      $(id).replaceChildren(
        ...active.map((d) => make("option", { value: d }, `${latent(d)}${model.variances[d] > 0.01 ? "" : " (inactive)"}`)),
      );
      $(id).value = state.axes[k];
      $(id).disabled = model.latents < 3;
      $(id).parentElement.hidden = model.latents < 2;
    }
    const pictures = model.live || model.pictures.grid;
    $("show-plane").parentElement.hidden = !painter.image || !pictures || model.latents < 2;
    $("show-plane").checked = painter.image && Boolean(pictures) && model.latents === 2;
    sliders.replaceChildren();
    sliders.hidden = !model.live;
    for (let d = 0; model.live && d < model.latents; d++) {
      const values = Array.from({ length: state.data.number }, (_, i) => code(i, d));
      const [low, high] = extent([...values, -1, 1], 0.25);
      const input = make("input", { type: "range", min: low, max: high, step: (high - low) / 200, "aria-label": latent(d) });
      input.addEventListener("input", () => {
        state.z[d] = Number(input.value);
        move(false);
      });
      input.addEventListener("change", paintPlane);
      sliders.append(make("label", {}, latent(d), input, make("output")));
    }
    frameAxes();
  }

  function frameAxes() {
    side = Math.max(240, plane.clientWidth);
    span = state.axes.map((d) => extent(Array.from({ length: state.data.number }, (_, i) => code(i, d)), 0.08));
    view = {
      canvas: make("canvas", { width: 1, height: 1, "aria-hidden": "true" }),
      svg: shape("svg", { viewBox: `0 0 ${side} ${side}`, "aria-hidden": "true" }),
      ticks: shape("g", { class: "ticks" }),
      points: shape("g", { class: "points" }),
      ellipse: shape("path", { style: "fill:var(--accent-soft);stroke:var(--accent);stroke-width:2" }),
      cross: shape("g", { style: "stroke:var(--accent);fill:none;stroke-width:2;pointer-events:none" }),
    };
    labels = state.content.data.labels;
    const halo = $("show-plane").checked ? "paint-order:stroke;stroke:var(--paper);stroke-width:3px;" : "";
    for (let i = 0; i < state.data.number; i++) {
      const at = [toX(code(i, state.axes[0])), toY(code(i, state.axes[1]))].map((v) => v.toFixed(1));
      view.points.append(
        labels
          ? shape("text", { class: "class-point", x: at[0], y: at[1], "data-i": i, style: `${halo}fill:${colour(labels[i])}` }, labels[i])
          : shape("circle", { cx: at[0], cy: at[1], r: 3, "data-i": i, style: `fill:${colour(0)};opacity:.6` }),
      );
    }
    view.cross.append(shape("circle", { r: 9 }), shape("path", { d: "M-15 0H-9M9 0H15M0 -15V-9M0 9V15" }));
    view.svg.append(view.ticks, view.points, view.ellipse, view.cross);
    plane.replaceChildren(view.canvas, view.svg);
    $("classes").hidden = !labels;
    for (const [k, axis] of [0, 1].entries()) {
      if (state.axes[axis] >= state.model.latents) continue;
      const { places, digits } = ticks(...span[axis], 6);
      for (const v of places.filter((v) => v > span[axis][0] && v < span[axis][1])) {
        const where = k ? { x: 8, y: toY(v) + 4 } : { x: toX(v), y: side - 8, "text-anchor": "middle" };
        if (k ? toY(v) < side - 24 : toX(v) > 24) view.ticks.append(shape("text", where, fixed(v, digits)));
      }
    }
    const [i, j] = state.axes;
    plane.setAttribute(
      "aria-label",
      `Plane of ${latent(i)} and ${latent(j)} with ${state.data.number} posterior means. Arrow keys move the decoded point, Enter chooses the nearest datum.`,
    );
    paintPlane();
    if (state.z) move(true);
  }

  // The decoded plane behind the points: pictures on a grid, the other latents as they are.
  function paintPlane() {
    const { model } = state, { canvas } = view, gap = Math.ceil(painter.width / 5);
    const width = painter.width + gap, height = painter.height + gap;  // room between pictures
    canvas.hidden = !$("show-plane").checked;
    if (canvas.hidden || model.latents < 2) return;
    const grid = model.live ? null : model.pictures.grid;
    const n = grid ? grid.lines[0].length : Math.max(8, Math.min(14, Math.floor(side / 36)));
    canvas.width = n * width;
    canvas.height = n * height;
    const context = canvas.getContext("2d"), z = new Float64Array(n * n * model.latents);
    for (let row = 0; row < n; row++)
      for (let column = 0; column < n; column++) {
        const from = (row * n + column) * model.latents;
        z.set(state.z ?? new Float64Array(model.latents), from);
        z[from + state.axes[0]] = span[0][0] + ((column + 0.5) / n) * (span[0][1] - span[0][0]);
        z[from + state.axes[1]] = span[1][1] - ((row + 0.5) / n) * (span[1][1] - span[1][0]);
      }
    const pictures = grid
      ? Array.from({ length: n * n }, (_, k) => state.decode(z.subarray(k * model.latents, (k + 1) * model.latents)))
      : model.decode(z);
    canvas.style.opacity = 0.5;
    pictures.forEach((values, k) =>
      context.putImageData(
        painter.pixels(values),
        (k % n) * width + Math.floor(gap / 2),
        Math.floor(k / n) * height + Math.floor(gap / 2),
      ),
    );
  }

  // The point has moved: decode it, and set the sliders, unless it is they that moved it.
  function move(everywhere = true) {
    const { z, axes, model } = state;
    const y = axes[1] < model.latents ? z[axes[1]] : 0;
    view.cross.setAttribute("transform", `translate(${toX(z[axes[0]])} ${toY(y)})`);
    const words = axes.filter((d) => d < model.latents).map((d) => `${latent(d)} = ${fixed(z[d])}`).join(", ");
    painter.paint($("decoded"), state.decode(z), `Decoded at ${words}`);
    $("decoded-words").textContent = `decoded at ${words}`;
    [...sliders.children].forEach((label, d) => {
      if (everywhere) label.querySelector("input").value = z[d];
      label.querySelector("output").textContent = fixed(z[d]);
    });
  }

  // q(z|x) of the chosen datum, two standard deviations about its mean.
  function drawPosterior() {
    const { posterior, axes, model } = state;
    if (!posterior || model.latents < 2) return view.ellipse.setAttribute("d", "");
    const [i, j] = axes, a = posterior.covariance(i, i), b = posterior.covariance(i, j), c = posterior.covariance(j, j);
    const [first, , , last] = [Math.sqrt(a), 0, b / Math.sqrt(a), Math.sqrt(Math.max(0, c - (b * b) / a))];
    const points = Array.from({ length: 65 }, (_, k) => {
      const angle = (k / 64) * 2 * Math.PI, u = 2 * Math.cos(angle), v = 2 * Math.sin(angle);
      return [toX(posterior.mean[i] + first * u), toY(posterior.mean[j] + (b / first) * u + last * v)];
    });
    view.ellipse.setAttribute("d", `${path(points)}Z`);
  }

  const nearest = () => {
    let best = 0, least = Infinity;
    for (let i = 0; i < state.data.number; i++) {
      const d = (toX(code(i, state.axes[0])) - toX(state.z[state.axes[0]])) ** 2 +
        (state.axes[1] < state.model.latents ? (toY(code(i, state.axes[1])) - toY(state.z[state.axes[1]])) ** 2 : 0);
      if (d < least) [best, least] = [i, d];
    }
    return best;
  };

  function follow(event) {
    const box = plane.getBoundingClientRect();
    const u = (event.clientX - box.left) / box.width, v = 1 - (event.clientY - box.top) / box.height;
    state.z[state.axes[0]] = span[0][0] + u * (span[0][1] - span[0][0]);
    if (state.axes[1] < state.model.latents)
      state.z[state.axes[1]] = span[1][0] + v * (span[1][1] - span[1][0]);
    move();
  }
  plane.addEventListener("pointermove", follow);
  plane.addEventListener("pointerdown", follow);
  plane.addEventListener("click", (event) => {
    const i = event.target.dataset?.i;
    if (i !== undefined) state.choose(Number(i), false);
  });
  plane.addEventListener("keydown", (event) => {
    if (event.key === "Enter") return state.choose(nearest(), false);
    const step = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowDown: [1, -1], ArrowUp: [1, 1] }[event.key];
    if (!step || state.axes[step[0]] >= state.model.latents) return;
    event.preventDefault();
    state.z[state.axes[step[0]]] += (step[1] * (span[step[0]][1] - span[step[0]][0])) / 50;
    move();
  });
  for (const [k, id] of ["axis-x", "axis-y"].entries())
    $(id).addEventListener("change", () => {
      const chosen = Number($(id).value);
      if (state.axes[1 - k] === chosen) {
        state.axes[1 - k] = state.axes[k];
        $(k ? "axis-x" : "axis-y").value = state.axes[k];
      }
      state.axes[k] = chosen;
      frameAxes();
      drawPosterior();
    });
  $("show-plane").addEventListener("change", () => {
    frameAxes();
    drawPosterior();
  });
  return { begin, move, drawPosterior, paintPlane, redraw: () => (frameAxes(), drawPosterior()) };
}
