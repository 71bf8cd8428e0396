// One datum: chosen or drawn, reconstructed, and its log p(x) sampled before the reader's eyes.

const ATTENTION = {
  "heavy tail": "Doubtful: Pareto k̂ is too high, so log p(x) can be off by more than its error says. The encoder fits this datum badly.",
  "one weight": "Doubtful: one draw outweighs all others, so log p(x) hangs on it.",
  "few draws": "Too few draws to see the tail of the weights.",
};

function startDatum(state) {
  const { painter, data } = state, pad = $("pad"), cursor = { row: 0, column: 0, shown: false };
  const shown = 24;
  let page = 0, run = 0, seed = 1, order = [], last = null;
  $("pad-controls").hidden = !painter.editable;
  $("datum-explain").textContent =
    (painter.editable ? "Choose a test datum, or draw in its picture. " : "Choose a test datum. ") +
    "Its log p(x) is then importance-sampled here, with draws of the encoder's q(z|x).";

  function sorted() {
    const given = [...Array(data.number).keys()], { evidence } = state.model, how = $("order").value;
    if (!evidence || how === "given") return given;
    const known = given.slice(0, evidence.number), log = state.model.column(evidence.log_px);
    if (how === "doubtful") {
      const doubtful = state.model.column(evidence.doubtful), k = state.model.column(evidence.pareto_k);
      return known.sort((i, j) => doubtful[j] - doubtful[i] || k[j] - k[i]);
    }
    return known.sort((i, j) => (how === "most" ? log[j] - log[i] : log[i] - log[j]));
  }

  function drawGallery() {
    const pages = Math.max(1, Math.ceil(order.length / shown));
    page = Math.min(Math.max(page, 0), pages - 1);
    const { evidence } = state.model, { labels } = state.content.data;
    $("gallery").replaceChildren(
      ...order.slice(page * shown, (page + 1) * shown).map((i) => {
        const log = evidence && i < evidence.number ? `, log p(x) ${fixed(state.model.column(evidence.log_px)[i])}` : "";
        const name = `Datum ${i}${labels ? `, class ${labels[i]}` : ""}${log}`;
        const canvas = make("canvas", { "aria-hidden": "true" });
        painter.paint(canvas, state.datum(i));
        const button = make("button", { type: "button", role: "option", title: name, "aria-label": name, "data-i": i, "aria-selected": i === state.index }, canvas);
        button.addEventListener("click", () => state.choose(i, false));
        return button;
      }),
    );
    $("page-words").textContent = `${page * shown + 1}–${Math.min(order.length, (page + 1) * shown)} of ${order.length}`;
    $("fewer").disabled = page === 0;
    $("more").disabled = page === pages - 1;
  }
  $("fewer").addEventListener("click", () => (page--, drawGallery()));
  $("more").addEventListener("click", () => (page++, drawGallery()));
  $("order").addEventListener("change", () => {
    order = sorted();
    page = 0;
    drawGallery();
    if (order.length) state.choose(order[0], false);
  });
  $("gallery").addEventListener("keydown", (event) => {
    const buttons = [...$("gallery").children], step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    event.preventDefault();
    buttons[(buttons.indexOf(document.activeElement) + step + buttons.length) % buttons.length].focus();
  });

  function begin() {
    const { model } = state;
    for (const option of $("order").options) option.disabled = !model.evidence && option.value !== "given";
    if (!model.evidence) $("order").value = "given";
    $("live").hidden = !model.live;
    $("convergence-figure").hidden = !model.live;
    order = sorted();
    drawGallery();
  }

  function paint() {
    const { labels } = state.content.data, edited = state.index === null;
    for (const button of $("gallery").children)
      button.setAttribute("aria-selected", Number(button.dataset.i) === state.index && !edited);
    $("datum-name").textContent = edited ? "as you drew it" : `datum ${state.index}${labels ? `, class ${labels[state.index]}` : ""}`;
    paintPad();
    $("draws").replaceChildren();
    const { model } = state;
    const picture = model.live ? state.decode(state.posterior.mean) : state.picture(model.pictures.reconstructions, state.last);
    painter.paint($("reconstruction"), picture, "Reconstruction: the decoder's mean at the mean of q(z|x)");
    if (!model.live) return place(storedOf("log_px"));
    if (last) tell(...last);
    const { z } = model.draw(state.x, state.posterior, normals(17), 6);
    for (const values of model.decode(z)) {
      const canvas = make("canvas", { "aria-hidden": "true" });
      painter.paint(canvas, values);
      $("draws").append(canvas);
    }
  }

  function show() {
    last = null;
    paint();
    if (state.model.live) sample();
  }

  function paintPad() {
    painter.paint(pad, state.x, `${$("datum-name").textContent}${painter.editable ? ". Draw with the mouse, or with arrow keys and the space bar." : ""}`);
    if (!cursor.shown) return;
    const context = pad.getContext("2d");
    context.fillStyle = getComputedStyle(pad).outlineColor;
    context.fillRect(cursor.column, cursor.row, 1, 1);
  }

  const storedOf = (name) => {
    const { evidence } = state.model;
    return evidence && state.index !== null && state.index < evidence.number ? state.model.column(evidence[name])[state.index] : NaN;
  };

  // Draw until there are as many as asked for, some milliseconds at a time.
  async function sample() {
    const mine = ++run, { model, x, posterior } = state, target = Number($("live-samples").value);
    const normal = normals(seed * 7919 + (state.index ?? 99991)), logWeights = new Float64Array(target);
    const trace = [];
    let done = 0, batch = 8, told = 0;
    while (done < target && mine === run) {
      const began = performance.now(), number = Math.min(batch, target - done);
      logWeights.set(model.draw(x, posterior, normal, number).logWeights, done);
      done += number;
      const now = performance.now();
      if (now - began < 8 && batch < 256) batch *= 2;
      if (done < 25) continue;
      if (done === target || now - told > 60 || done < 200) {
        const found = diagnose(logWeights.subarray(0, done));
        trace.push(found);
        told = now;
        tell(found, trace, target);
        await new Promise((resolve) => setTimeout(resolve, 0));
      }
    }
  }

  function tell(found, trace, target) {
    const doubt = doubtOf(found), finished = found.draws === target, gap = found.logPx - found.elbo;
    last = [found, trace, target];
    $("live-value").textContent = fixed(found.logPx);
    $("live-error").textContent = `± ${fixed(found.standardError, 3)} nats`;
    // Read aloud only when it is final.
    $("live-verdict").setAttribute("aria-live", finished ? "polite" : "off");
    $("live-verdict").className = `verdict ${doubt ? "doubt" : "good"}`;
    $("live-verdict").textContent = doubt ? `! ${ATTENTION[doubt]}` : "✓ Trusted: the weights' tail is light enough for this error.";
    const stored = storedOf("log_px"), { evidence } = state.model;
    const rows = [
      ["draws", found.draws.toLocaleString("en")],
      ["effective sample size", found.ess.toFixed(0)],
      ["Pareto k̂", `${fixed(found.k)} (limit ${fixed(found.limit)})`],
      ["ELBO", `${fixed(found.elbo)} ± ${fixed(found.elboError)}`],
      ["gap of the ELBO", `${fixed(gap)} nats`],
    ];
    if (Number.isFinite(stored))
      rows.push([`stored (${evidence.method}, K = ${evidence.samples.toLocaleString("en")})`, `${fixed(stored)} ± ${fixed(storedOf("standard_error"), 3)}`]);
    $("live-facts").replaceChildren(...rows.flatMap(([term, value]) => [make("dt", {}, term), make("dd", {}, value)]));
    converge(trace, target, stored);
    if (finished || trace.length === 1) place(found.logPx);
  }

  function converge(trace, target, stored) {
    const late = trace.slice(Math.floor(trace.length / 4)), last = trace.at(-1);
    const ends = late.flatMap((t) => [t.plain - 2 * t.standardError, t.plain + 2 * t.standardError]);
    const y = extent([...ends, last.elbo, stored], 0.12);
    const chart = frame($("convergence"), {
      x: [25, target],
      y,
      log: true,
      height: 260,
      right: 64,
      xName: "draws",
      yName: "log p(x), nats",
      alternative: `Running estimate of log p(x), at ${last.draws} draws ${fixed(last.plain)} ± ${fixed(last.standardError, 3)} nats; ELBO ${fixed(last.elbo)}.`,
    });
    const cut = (v) => chart.toY(Math.min(y[1], Math.max(y[0], v)));
    const upper = trace.map((t) => [chart.toX(t.draws), cut(t.plain + 2 * t.standardError)]);
    const lower = trace.map((t) => [chart.toX(t.draws), cut(t.plain - 2 * t.standardError)]);
    chart.svg.append(shape("path", { class: "band", d: `${path([...upper, ...lower.reverse()])}Z` }));
    const level = (value, words, style) => {
      if (!Number.isFinite(value)) return;
      chart.svg.append(shape("path", { class: "curve", d: `M${chart.left} ${cut(value)}H${chart.width - chart.right}`, style }));
      chart.svg.append(shape("text", { x: chart.width - chart.right + 6, y: cut(value) + 4 }, words));
    };
    level(last.elbo, "ELBO", `stroke:${colour(8)}`);
    level(stored, "stored", "stroke:var(--muted);stroke-dasharray:5 4;stroke-width:1.5");
    chart.svg.append(shape("path", { class: "curve", d: path(trace.map((t) => [chart.toX(t.draws), cut(t.plain)])), style: "stroke:var(--accent)" }));
  }

  function place(value) {
    const { evidence } = state.model;
    $("place-figure").hidden = !evidence;
    if (!evidence) return;
    const all = state.model.column(evidence.all), below = all.filter((v) => v < value).length;
    const share = (100 * below) / all.length;
    drawHistogram($("place"), all, value, `more likely than ${share.toFixed(0)} % of the data`);
  }

  $("live-samples").addEventListener("change", sample);
  $("again").addEventListener("click", () => (seed++, sample()));

  // Drawing: a stroke sets pixels, or clears them where it starts on a set one.
  let value = null;
  const touch = (row, column) => {
    const { width, height } = painter, reach = width >= 20 && value ? 1 : 0;
    for (let r = row - reach; r <= row + reach; r++)
      for (let c = column - reach; c <= column + reach; c++)
        if (r >= 0 && c >= 0 && r < height && c < width && Math.abs(r - row) + Math.abs(c - column) <= reach)
          state.x[r * width + c] = value;
  };
  const at = (event) => {
    const box = pad.getBoundingClientRect();
    return [Math.floor(((event.clientY - box.top) / box.height) * painter.height), Math.floor(((event.clientX - box.left) / box.width) * painter.width)];
  };
  const changed = () => {
    state.index = null;
    state.infer();
    show();
  };
  if (painter.editable) {
    pad.addEventListener("pointerdown", (event) => {
      const [row, column] = at(event);
      value = state.x[row * painter.width + column] > 0.5 ? 0 : 1;
      cursor.shown = false;
      pad.setPointerCapture(event.pointerId);
      touch(row, column);
      changed();
    });
    pad.addEventListener("pointermove", (event) => {
      if (value === null) return;
      touch(...at(event));
      changed();
    });
    for (const end of ["pointerup", "pointercancel"]) pad.addEventListener(end, () => (value = null));
    pad.addEventListener("keydown", (event) => {
      const step = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[event.key];
      if (!step && event.key !== " ") return;
      event.preventDefault();
      cursor.shown = true;
      if (step) {
        cursor.row = (cursor.row + step[0] + painter.height) % painter.height;
        cursor.column = (cursor.column + step[1] + painter.width) % painter.width;
        return paintPad();
      }
      const place = cursor.row * painter.width + cursor.column;
      state.x[place] = state.x[place] > 0.5 ? 0 : 1;
      changed();
    });
    pad.addEventListener("blur", () => ((cursor.shown = false), paintPad()));
    $("clear").addEventListener("click", () => (state.x.fill(0), changed()));
    $("restore").addEventListener("click", () => state.choose(state.last, false));
  }
  return { begin, show, paint, stop: () => run++ };
}
