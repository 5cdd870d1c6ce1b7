// The moving parts of a report. Text from data goes in by textContent alone; nothing is fetched.
"use strict";
(() => {
  const all = (place, selector) => [...place.querySelectorAll(selector)];
  const clamp = (value, low, high) => Math.min(high, Math.max(low, value));
  const shown = (value) => Number(value).toFixed(2).replace("-", "\u2212");
  const short = (value) => (Number.isInteger(value) ? value.toLocaleString("en") : String(Number(value.toPrecision(4)))).replace("-", "\u2212");

  const make = (name, kind, text) => {
    const node = document.createElement(name);
    if (kind) node.className = kind;
    if (text !== undefined) node.textContent = text;
    return node;
  };

  const symbolOf = (figure, group) => figure.querySelector(`.key[data-group="${group}"] .symbol`).cloneNode(true);

  // A few words before and behind another one.
  const ROOM = 45;
  const beginning = (text) => (text.length > ROOM ? `${[...text].slice(0, ROOM).join("").replace(/\s+\S*$/, "")}…` : text);
  const ending = (text) => (text.length > ROOM ? `…${[...text].slice(-ROOM).join("").replace(/^\S*\s+/, "")}` : text);

  // A sentence with its word marked, under the name of its group.
  const sentence = (figure, content, place) => {
    const [before, word, after, group] = content.items[place];
    const box = make("div");
    const who = make("div", "who");
    who.append(symbolOf(figure, group), make("span", "", content.groups[group]));
    const line = make("p");
    line.dir = "auto";
    line.append(before, make("mark", "", word), after);
    box.append(who, line);
    return box;
  };

  // The occurrences whose vectors are nearest in a layer, of all and not only of those with a mark, with their cosines.
  const nearest = (figure, content, layer, place) => {
    const { items, cosines } = content.near[layer];
    const each = items.length / figure.querySelectorAll(".dot").length;
    const list = make("ol", "near");
    for (let n = place * each; n < (place + 1) * each; n += 1) {
      const [before, word, after, group] = content.items[items[n]];
      const item = make("li");
      const line = make("span");
      line.dir = "auto";
      line.append(ending(before), make("mark", "", word), beginning(after));
      item.append(symbolOf(figure, group), line, make("output", "", shown(cosines[n] / 100)));
      list.append(item);
    }
    return [make("div", "who near-title", `nearest in ${content.layers[layer]}, with cosines`), list];
  };

  // Arrow keys move inside a picture: where a key leads in a row (dy = 0) or in a square.
  const steps = { ArrowRight: [1, 0], ArrowLeft: [-1, 0], ArrowDown: [0, 1], ArrowUp: [0, -1] };

  function curve(figure, content) {
    const field = figure.querySelector(".field");
    const hair = figure.querySelector(".hair");
    const readout = figure.querySelector(".readout");
    const names = all(figure, ".keys span").map((node) => node.textContent);
    const xs = [...new Set(content.curves.flat().map((point) => point[0]))].sort((a, b) => a - b);
    const across = content.log ? Math.log : (x) => x;
    const [low, high] = content.xr.map(across);
    let now = xs.length - 1;
    const show = (place) => {
      if (!xs.length) return;
      now = clamp(place, 0, xs.length - 1);
      const x = xs[now];
      hair.hidden = false;
      hair.style.left = `${(100 * (across(x) - low)) / (high - low)}%`;
      const parts = [make("bdi", "", content.x), ` ${short(x)}: `];
      content.curves.forEach((points, n) => {
        const near = points.reduce((best, point) => (Math.abs(point[0] - x) < Math.abs(best[0] - x) ? point : best), points[0]);
        if (near) parts.push(parts.length > 2 ? ", " : "", make("bdi", "", names[n]), ` ${short(near[1])}`);
      });
      readout.replaceChildren(...parts);
    };
    const nearest = (x) => xs.reduce((best, value, n) => (Math.abs(across(value) - x) < Math.abs(across(xs[best]) - x) ? n : best), 0);
    field.addEventListener("pointermove", (event) => {
      const box = field.getBoundingClientRect();
      show(nearest(low + ((event.clientX - box.left) / box.width) * (high - low)));
    });
    field.addEventListener("focus", () => field.matches(":focus-visible") && show(now));
    field.addEventListener("keydown", (event) => {
      const step = steps[event.key];
      if (!step || !step[0]) return;
      event.preventDefault();
      show(now + step[0] * Math.max(1, Math.round(xs.length / 50)));
    });
  }

  // A square of cells: calls `tell(row, column)` for the cell that is pointed at, or walked to.
  function square(svg, tell) {
    const size = Number(svg.dataset.size);
    const cursor = svg.querySelector(".cursor");
    let cell = [0, 0];
    const go = (column, row) => {
      cell = [clamp(column, 0, size - 1), clamp(row, 0, size - 1)];
      cursor.removeAttribute("hidden");
      cursor.setAttribute("x", cell[0]);
      cursor.setAttribute("y", cell[1]);
      tell(cell[1], cell[0]);
    };
    const point = (event) => {
      const place = new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse());
      if (place.x >= 0 && place.y >= 0) go(Math.floor(place.x), Math.floor(place.y));
    };
    svg.addEventListener("pointermove", point);
    svg.addEventListener("pointerdown", point);
    svg.addEventListener("keydown", (event) => {
      const step = steps[event.key];
      if (!step) return;
      event.preventDefault();
      go(cell[0] + step[0], cell[1] + step[1]);
    });
    return () => cursor.hasAttribute("hidden") || tell(cell[1], cell[0]);
  }

  // Shades of the cells for values in hundredths, palest for the lowest off the diagonal; the scale's ends say which they are.
  function shade(place, values) {
    const size = Math.round(Math.sqrt(values.length));
    const others = values.filter((_, n) => n % (size + 1));
    const low = others.length ? Math.min(...others) : 0;
    const high = others.length ? Math.max(...others) : 100;
    all(place, ".values rect").forEach((rect, n) => rect.setAttribute("opacity", clamp((values[n] - low) / (high - low || 1), 0, 1)));
    const ends = all(place, ".scale output");
    ends[0].textContent = shown(low / 100);
    ends[1].textContent = shown(high / 100);
  }

  function layers(figure, content) {
    const dots = all(figure, ".dot");
    const slider = figure.querySelector("input[type=range]");
    const readout = figure.querySelector(".side .readout");
    const cosines = figure.querySelector(".cosines");
    let layer = Number(slider.value);
    let again = () => {};
    let now = -1;

    const move = (to) => {
      layer = clamp(to, 0, content.layers.length - 1);
      slider.value = layer;
      slider.setAttribute("aria-valuetext", content.layers[layer]);
      figure.querySelector(".steer output").textContent = content.layers[layer];
      const places = content.xy[layer];
      dots.forEach((dot, n) => {
        dot.style.left = `${places[2 * n]}%`;
        dot.style.top = `${places[2 * n + 1]}%`;
      });
      all(figure, ".measure").forEach((measure, n) => {
        const value = content.measures[n][layer];
        measure.querySelector("output").textContent = value === null ? "–" : shown(value);
        all(measure, ".spark i").forEach((bar, other) => bar.classList.toggle("now", other === layer));
      });
      shade(cosines, content.cosines.values[layer]);
      if (now >= 0) show(now);
      again();
    };

    const show = (place) => {
      now = place;
      dots.forEach((dot, n) => {
        dot.classList.toggle("now", n === place);
        dot.tabIndex = n === place ? 0 : -1;
      });
      readout.replaceChildren(sentence(figure, content, place), ...nearest(figure, content, layer, place));
    };
    dots.forEach((dot, n) => {
      for (const kind of ["pointerenter", "focus", "click"]) dot.addEventListener(kind, () => show(n));
    });
    // An arrow key goes to the nearest point in its direction.
    figure.querySelector(".plot").addEventListener("keydown", (event) => {
      const step = steps[event.key];
      const from = dots.indexOf(document.activeElement);
      if (!step || from < 0) return;
      event.preventDefault();
      const places = content.xy[layer];
      let best = -1;
      let least = Infinity;
      dots.forEach((dot, n) => {
        const [dx, dy] = [places[2 * n] - places[2 * from], places[2 * n + 1] - places[2 * from + 1]];
        const along = dx * step[0] + dy * step[1];
        const aside = Math.abs(dx * step[1]) + Math.abs(dy * step[0]);
        if (n !== from && along > 0 && !dot.classList.contains("off") && along + 2 * aside < least) [best, least] = [n, along + 2 * aside];
      });
      if (best >= 0) dots[best].focus();
    });

    all(figure, ".key").forEach((key) => {
      key.addEventListener("click", () => {
        const on = key.getAttribute("aria-pressed") !== "true";
        key.setAttribute("aria-pressed", on);
        dots.filter((dot) => dot.dataset.group === key.dataset.group).forEach((dot) => {
          dot.classList.toggle("off", !on);
          dot.inert = !on;
        });
      });
    });

    const play = figure.querySelector(".play");
    let timer = 0;
    const stop = () => {
      clearInterval(timer);
      timer = 0;
      play.classList.remove("on");
    };
    play.addEventListener("click", () => {
      if (timer) return stop();
      play.classList.add("on");
      move(layer === content.layers.length - 1 ? 0 : layer + 1);
      timer = setInterval(() => (layer < content.layers.length - 1 ? move(layer + 1) : stop()), 1100);
    });
    slider.addEventListener("input", () => {
      stop();
      move(Number(slider.value));
    });

    if (dots.length) show(0);
    const order = content.cosines.order;
    const below = cosines.querySelector(".readout");
    again = square(cosines.querySelector(".cells"), (row, column) => {
      const value = content.cosines.values[layer][row * order.length + column] / 100;
      const cosine = make("p", "who", `cosine ${shown(value)} in ${content.layers[layer]}`);
      below.replaceChildren(cosine, sentence(figure, content, order[row]), sentence(figure, content, order[column]));
    });
  }

  function attention(figure, content) {
    const chips = all(figure, ".chip");
    const rects = all(figure, ".values rect");
    const size = content.tokens.length;
    const select = figure.querySelector("select");
    const readout = figure.querySelector(".readout");
    const hint = readout.textContent;
    let looking = chips.findIndex((chip) => chip.getAttribute("aria-pressed") === "true");
    const weights = () => content.heads[Number(select.value)];
    const paint = () => {
      chips.forEach((chip, n) => {
        const weight = weights()[looking * size + n] / 10;
        chip.style.setProperty("--w", `${weight}%`);
        chip.querySelector("small").textContent = `${weight.toFixed(0)} %`;
        chip.setAttribute("aria-pressed", n === looking);
        chip.tabIndex = n === looking ? 0 : -1;
      });
    };
    const look = (place) => {
      looking = clamp(place, 0, size - 1);
      paint();
    };
    chips.forEach((chip, n) => {
      for (const kind of ["pointerenter", "focus", "click"]) chip.addEventListener(kind, () => look(n));
      chip.addEventListener("keydown", (event) => {
        const step = steps[event.key];
        if (!step) return;
        event.preventDefault();
        chips[clamp(n + step[0] + step[1], 0, size - 1)].focus();
      });
    });
    square(figure.querySelector(".cells"), (row, column) => {
      look(row);
      const [from, to] = [row, column].map((n) => make("bdi", "", content.tokens[n]));
      readout.replaceChildren(from, " → ", to, `: ${(weights()[row * size + column] / 10).toFixed(1)} %`);
    });
    select.addEventListener("change", () => {
      rects.forEach((rect, n) => rect.setAttribute("opacity", Math.sqrt(weights()[n] / 1000)));
      readout.textContent = hint;
      paint();
    });
  }

  const kinds = { curve, layers, attention };
  for (const figure of all(document, "[data-chart]")) {
    kinds[figure.dataset.chart](figure, JSON.parse(figure.querySelector("script[type='application/json']").textContent));
  }

  // The link of the section that is being read is marked, and kept in sight where the links scroll.
  const links = all(document, "nav a");
  const strip = document.querySelector("nav ol");
  const seen = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      if (!entry.isIntersecting) continue;
      for (const link of links) {
        const here = link.hash === `#${entry.target.id}`;
        link.classList.toggle("here", here);
        if (here) strip.scrollLeft = link.offsetLeft - strip.offsetLeft - 24;
      }
    }
  }, { rootMargin: "-25% 0px -65% 0px" });
  for (const section of all(document, "main > section")) seen.observe(section);
})();
