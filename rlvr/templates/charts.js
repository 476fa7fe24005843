"use strict";
// Charts as SVG, drawn for the width they are given. Text reaches the page by textContent only.

const SVG = "http://www.w3.org/2000/svg";

function svg(tag, attributes, ...children) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

function canvas(width, height, label) {
  return svg("svg", { viewBox: `0 0 ${width} ${height}`, height, role: "img", "aria-label": label });
}

// A function from [from, to] to [start, end].
function scale(from, to, start, end) {
  const span = to - from || 1;
  return (value) => start + ((value - from) / span) * (end - start);
}

// The smallest round whole number of which at most `count` fit into `top`.
function roundStep(top, count) {
  const power = 10 ** Math.floor(Math.log10(top / count));
  return Math.max(1, power * [1, 2, 5, 10].find((each) => each * power >= top / count));
}

function below(x, y, text) {
  return svg("text", { x, y, "text-anchor": "middle" }, text);
}

// One tooltip a chart; `hit` marks the area that shows it.
function tooltip(holder) {
  const tip = document.createElement("div");
  tip.className = "tip";
  tip.hidden = true;
  holder.append(tip);
  return (hit, text) => {
    hit.setAttribute("class", "hit");
    hit.append(svg("title", {}, text));
    const show = () => {
      tip.textContent = text;
      tip.hidden = false;
      const box = hit.getBoundingClientRect(), around = holder.getBoundingClientRect();
      const middle = box.left - around.left + box.width / 2;
      const left = Math.min(middle - tip.offsetWidth / 2, around.width - tip.offsetWidth);
      tip.style.left = `${Math.max(0, left)}px`;
      tip.style.top = `${Math.max(0, box.top - around.top - tip.offsetHeight - 4)}px`;
    };
    hit.addEventListener("pointerenter", show);
    hit.addEventListener("pointerdown", show);
    hit.addEventListener("pointerleave", () => { tip.hidden = true; });
  };
}

// Curves over k with bands. series: [{name, style, points: [{k, value, low, high, text}]}]
function drawCurves(holder, series, width) {
  const height = 270, left = 46, right = width - 10, top = 10, bottom = height - 38;
  const all = new Set(series.flatMap((each) => each.points.map((point) => point.k)));
  const ks = [...all].sort((a, b) => a - b);
  const x = scale(0, Math.log2(ks[ks.length - 1]), left + 8, right - 8);
  const y = scale(0, 1, bottom, top);
  const chart = canvas(width, height, "pass rates over k");
  for (const share of [0, 0.25, 0.5, 0.75, 1]) {
    chart.append(
      svg("line", { class: share ? "grid" : "axis", x1: left, x2: right, y1: y(share), y2: y(share) }),
      svg("text", { x: left - 6, y: y(share) + 4, "text-anchor": "end" }, `${100 * share} %`),
    );
  }
  let lastLabel = -Infinity;
  for (const k of ks) {
    const power = Number.isInteger(Math.log2(k)), last = k === ks[ks.length - 1];
    if (!(power || last || ks.length <= 10) || x(Math.log2(k)) - lastLabel < 22) continue;
    lastLabel = x(Math.log2(k));
    chart.append(below(lastLabel, bottom + 16, String(k)));
  }
  chart.append(below((left + right) / 2, height - 4, "k samples (log scale)"));
  for (const each of series) {
    const path = (name) => each.points.map((point) => `${x(Math.log2(point.k))},${y(point[name])}`);
    const group = svg("g", { class: each.style });
    group.append(
      svg("polygon", { class: "band", points: [...path("high"), ...path("low").reverse()].join(" ") }),
      svg("polyline", { class: "line", points: path("value").join(" ") }),
    );
    for (const { k, value } of each.points.length <= 16 ? each.points : []) {
      group.append(svg("circle", { class: "dot", cx: x(Math.log2(k)), cy: y(value), r: 4 }));
    }
    chart.append(group);
  }
  holder.replaceChildren(chart);
  const attach = tooltip(holder);
  ks.forEach((k, index) => {
    const here = x(Math.log2(k));
    const from = index ? (x(Math.log2(ks[index - 1])) + here) / 2 : left;
    const to = index < ks.length - 1 ? (x(Math.log2(ks[index + 1])) + here) / 2 : right;
    const hit = svg("rect", { x: from, y: top, width: Math.max(1, to - from), height: bottom - top });
    const texts = series.flatMap((each) =>
      each.points.filter((point) => point.k === k).map((point) => `${each.name} ${point.text}`));
    attach(hit, [`k = ${k}`, ...texts].join("\n"));
    chart.append(hit);
  });
}

// Bars. bins: [{label, count, cut?, text, edge?}]: `cut` of `count` are drawn in another colour, and
// an `edge` label stands below the bar's left edge.
function drawBars(holder, bins, axis, width) {
  const height = 250, left = 44, right = width - 6, top = 12, bottom = height - 38;
  const most = Math.max(1, ...bins.map((bin) => bin.count));
  const y = scale(0, most, bottom, top);
  const slot = (right - left) / bins.length;
  const chart = canvas(width, height, axis);
  for (let count = 0; count <= most; count += roundStep(most, 5)) {
    chart.append(
      svg("line", { class: count ? "grid" : "axis", x1: left, x2: right, y1: y(count), y2: y(count) }),
      svg("text", { x: left - 6, y: y(count) + 4, "text-anchor": "end" }, count.toLocaleString("en")),
    );
  }
  const widest = Math.max(...bins.map((bin) => 7.5 * bin.label.length + 10));
  const every = Math.ceil(widest / slot);
  bins.forEach((bin, index) => {
    const start = left + index * slot, gap = Math.min(4, slot * 0.15);
    for (const [style, count] of [["bar", bin.count], ["bar cut", bin.cut || 0]]) {
      chart.append(svg("rect", {
        class: style, x: start + gap / 2, width: Math.max(1, slot - gap),
        y: y(count), height: bottom - y(count), rx: Math.min(2, slot / 6),
      }));
    }
    const at = bin.edge ? start : start + slot / 2;
    if (index % every === 0) chart.append(below(at, bottom + 16, bin.label));
  });
  chart.append(below((left + right) / 2, height - 4, axis));
  holder.replaceChildren(chart);
  const attach = tooltip(holder);
  bins.forEach((bin, index) => {
    const hit = svg("rect", { x: left + index * slot, y: top, width: slot, height: bottom - top });
    attach(hit, bin.text);
    chart.append(hit);
  });
}
