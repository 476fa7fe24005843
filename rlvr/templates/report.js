// The page: one benchmark at a time. Model text is never parsed as HTML: every node is made by
// `node`, which takes strings as text.

const PAGE = 50;
const STATUSES = ["correct", "partial", "incorrect", "no_answer", "limit", "error"];
const CURVES = [
  ["pass@k", "pass_at_k", "s1"],
  ["maj@k", "maj_at_k", "s2"],
  ["pass^k", "pass_hat_k", "s3"],
];
const ANY = ["", "any"];
const DIFFICULTIES = [
  ANY,
  ["always", "always solved"],
  ["mixed", "sometimes solved"],
  ["never", "never solved"],
  ["unjudged", "left out (no verdict)"],
];
const ORDERS = [
  ["", "as in the data"],
  ["hardest", "hardest first"],
  ["easiest", "easiest first"],
  ["longest", "longest first"],
];

const report = JSON.parse(document.getElementById("data").textContent);
let redraw = [];

function node(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value !== null) element.setAttribute(name, value);
  }
  element.append(...children.flat(Infinity).filter((child) => child !== null));
  return element;
}

const note = (...children) => node("p", { class: "note" }, ...children);
const percent = (share) => `${(100 * share).toFixed(1)} %`;
const length = (share) => `${(100 * share).toFixed(2)}%`;
const whole = (value) => Math.round(value).toLocaleString("en");

function range(estimate) {
  if (estimate.low === null) return "";
  return `${(100 * estimate.low).toFixed(1)} to ${percent(estimate.high)}`.replaceAll(" ", "\u00a0");
}

function plainRange(estimate) {
  return estimate.low === null ? "" : `${estimate.low.toFixed(3)} to ${estimate.high.toFixed(3)}`;
}

function duration(seconds) {
  if (seconds < 90) return `${seconds.toFixed(0)} s`;
  return seconds < 5400 ? `${(seconds / 60).toFixed(0)} min` : `${(seconds / 3600).toFixed(1)} h`;
}

// ---- figures ----

function overview(current) {
  if (report.benchmarks.length < 2) return null;
  const cell = (estimate) => {
    if (!estimate || estimate.value === null) return node("td", {}, "-");
    const interval = node("span", { class: "note" }, range(estimate));
    return node("td", { class: "num" }, percent(estimate.value), interval);
  };
  const rows = report.benchmarks.map(({ results }, index) => {
    const { figures, num_samples: n } = results;
    const open = node("button", { type: "button", onclick: () => show(index) }, results.benchmark);
    return node("tr", { "aria-current": index === current ? "true" : null },
      node("td", {}, open),
      node("td", { class: "num" }, `${whole(figures.num_problems)} x ${n}`),
      cell(figures.avg), cell(figures.pass_at_k[n]), cell(figures.maj_at_k[n]));
  });
  const heads = ["benchmark", "problems x n", "avg@n", "pass@n", "maj@n"];
  const head = node("tr", {}, heads.map((name) => node("th", { scope: "col" }, name)));
  return node("div", { class: "overview" },
    node("table", {}, node("thead", {}, head), node("tbody", {}, rows)));
}

function tile(label, value, sub, style = "") {
  return node("div", { class: "tile" },
    node("div", { class: "label" }, label),
    node("div", { class: `value ${style}` }, value),
    node("div", { class: "sub num" }, sub));
}

function tiles(results) {
  const { figures, num_samples: n } = results;
  const rate = (label, estimate) => {
    if (!estimate || estimate.value === null) return null;
    const fewer = estimate.num_problems < figures.num_problems;
    const sub = range(estimate) + (fewer ? ` (${estimate.num_problems}\u00a0problems)` : "");
    return tile(label, percent(estimate.value), sub);
  };
  const by_k = n > 1 ? CURVES.map(([, key]) => key) : [];
  const names = { pass_at_k: `pass@${n}`, maj_at_k: `maj@${n}`, pass_hat_k: `pass^${n}` };
  const left_out = figures.num_left_out;
  return node("div", { class: "tiles" },
    rate(`avg@${n}`, figures.avg) ||
      tile(`avg@${n}`, "no verdicts", "every sample ended in an error", "text"),
    by_k.map((key) => rate(names[key], figures[key][n])),
    figures.reward.value === figures.avg.value
      ? null
      : tile("mean reward", figures.reward.value.toFixed(3), plainRange(figures.reward)),
    rate("truncated", figures.truncated),
    tile("problems x samples", `${whole(figures.num_problems)} x ${n}`,
      left_out ? `${left_out} left out: no verdict` : "no problem left out"),
    tile("tokens a completion", whole(figures.mean_tokens), `${whole(results.tokens)} in all`),
    tile("time", duration(results.seconds),
      results.seconds > 0 ? `${whole(results.tokens / results.seconds)} tokens/s` : ""));
}

// ---- charts ----

function card(title, text, draw) {
  const chart = node("div", { class: "chart" });
  redraw.push(() => draw(chart, chart.clientWidth));
  return node("div", { class: "card" }, node("h3", {}, title), note(text), chart);
}

function curvesCard(figures, n) {
  const point = ([k, each]) => ({ k: Number(k), ...each, text: `${percent(each.value)} (${range(each)})` });
  const series = CURVES
    .map(([name, key, style]) => ({ name, style, points: Object.entries(figures[key]).map(point) }))
    .filter((each) => each.points.length);
  if (n < 2 || !series.length) return null;
  const made = card("How the rate grows with samples",
    "pass@k: any of k is correct. maj@k: the most frequent answer of k is correct, a tie is not. " +
      "pass^k: all k are correct. Bands: 95 %.",
    (chart, width) => drawCurves(chart, series, width));
  const keys = series.map((each) => {
    const line = svg("line", { class: "line", x1: 1, x2: 25, y1: 5, y2: 5 });
    const key = svg("svg", { viewBox: "0 0 26 10" }, svg("g", { class: each.style }, line));
    return node("span", { class: "chart" }, key, each.name);
  });
  made.append(node("div", { class: "legend" }, keys));
  return made;
}

function difficultyCard(problems, n) {
  const rates = problems.filter((each) => each.rate !== null).map((each) => each.rate);
  if (!rates.length) return null;
  const exact = n <= 10;
  const bins = Array.from({ length: exact ? n + 1 : 10 }, (_, index) => ({
    count: 0,
    label: exact ? `${index}/${n}` : `${index * 10}-${index * 10 + 10} %`,
  }));
  for (const rate of rates) {
    bins[exact ? Math.round(rate * n) : Math.min(9, Math.floor(rate * 10 + 1e-9))].count += 1;
  }
  for (const bin of bins) {
    const share = percent(bin.count / Math.max(1, rates.length));
    bin.text = `${bin.label} correct\n${whole(bin.count)} problems (${share})`;
  }
  const never = rates.filter((rate) => rate === 0).length;
  const always = rates.filter((rate) => rate === 1).length;
  return card("Difficulty",
    `Problems by share of correct samples: ${never} never solved, ${always} always.`,
    (chart, width) => drawBars(chart, bins, "correct samples of a problem", width));
}

function lengthCard(problems) {
  const samples = problems.flatMap((each) => each.samples);
  const sorted = samples.map((each) => each.tokens).sort((a, b) => a - b);
  const longest = sorted[sorted.length - 1] || 0;
  const step = roundStep(longest + 1, 30);
  const bins = Array.from({ length: Math.floor(longest / step) + 1 }, (_, index) => ({
    count: 0, cut: 0, edge: true, label: whole(index * step), from: index * step,
  }));
  for (const each of samples) {
    const bin = bins[Math.floor(each.tokens / step)];
    bin.count += 1;
    bin.cut += each.finish === "length" ? 1 : 0;
  }
  for (const bin of bins) {
    const tokens = step > 1 ? `${whole(bin.from)} to ${whole(bin.from + step - 1)}` : whole(bin.from);
    bin.text = `${tokens} tokens\n${whole(bin.count)} completions, ${whole(bin.cut)} of them truncated`;
  }
  const median = sorted[Math.floor(sorted.length / 2)] || 0;
  const cut = samples.some((each) => each.finish === "length") ? " Orange: truncated." : "";
  return card("Length",
    `Tokens a completion: median ${whole(median)}, longest ${whole(longest)}.${cut}`,
    (chart, width) => drawBars(chart, bins, "tokens", width));
}

function statusCard(figures) {
  const found = STATUSES.filter((status) => figures.statuses[status]);
  const total = found.reduce((sum, status) => sum + figures.statuses[status], 0);
  const rows = found.map((status) => {
    const count = figures.statuses[status];
    const fill = node("div", { class: `fill ${status}` });
    fill.style.width = length(count / total);
    fill.style.background = "currentColor";
    return [
      node("span", {}, status),
      node("div", { class: "track" }, fill),
      node("span", { class: "num" }, `${whole(count)} (${percent(count / total)})`),
    ];
  });
  return node("div", { class: "card" }, node("h3", {}, "Verdicts"),
    note("Of all completions. An error is a fault of the scoring and is in no figure."),
    node("div", { class: "bars" }, rows));
}

function breakdownCard(column, values, n) {
  const rows = Object.entries(values).map(([value, each]) => {
    const name = node("span", { class: "name" }, value);
    if (each.value === null) return [name, node("span"), node("span", {}, "no verdicts")];
    const bar = node("div", { class: "range" }), mean = node("div", { class: "mean" });
    bar.style.left = length(each.low);
    bar.style.width = length(each.high - each.low);
    mean.style.left = length(each.value);
    const rail = node("div", { class: "rail" });
    const track = node("div", { class: "track", title: range(each) }, rail, bar, mean);
    const size = node("span", { class: "note" }, ` of ${each.num_problems}`);
    return [name, track, node("span", { class: "num" }, percent(each.value), size)];
  });
  return node("div", { class: "card" }, node("h3", {}, `By ${column}`),
    note(`avg@${n} with its 95 % interval, from 0 to 100 %.`),
    node("div", { class: "intervals" }, rows));
}

// ---- problems ----

function marks(samples) {
  const shown = samples.slice(0, 32);
  return node("div", { class: "marks" },
    shown.map((each) => node("span", { class: `mark ${each.status}`, title: each.status })),
    samples.length > 32 ? node("span", { class: "note" }, `+${samples.length - 32}`) : null);
}

function sampleBlock(each) {
  const expected = each.status === "correct" ? 1 : 0;
  const facts = [
    `sample ${each.sample}`,
    each.answer === null ? "no answer" : `answer ${each.answer}`,
    `${whole(each.tokens)} tokens${each.finish === "length" ? ", truncated" : ""}`,
    each.reward === null || each.reward === expected ? null : `reward ${each.reward}`,
  ];
  return node("div", { class: "sample" },
    node("header", {},
      node("b", { class: each.status }, each.status),
      facts.filter((fact) => fact !== null).map((fact) => node("span", {}, fact))),
    node("pre", {}, each.completion),
    each.detail ? note(each.detail) : null);
}

function problemBody(problem, status) {
  const shown = problem.samples.filter((each) => !status || each.status === status);
  const hidden = problem.samples.length - shown.length;
  const metadata = Object.entries(problem.metadata).map(([name, value]) => `${name}: ${value}`);
  return node("div", { class: "body" },
    node("h4", {}, "Prompt"), node("pre", {}, problem.prompt),
    problem.answer === null ? null : [node("h4", {}, "Gold answer"), node("pre", {}, problem.answer)],
    metadata.length ? note(metadata.join(" · ")) : null,
    node("h4", {}, "Completions"), shown.map(sampleBlock),
    hidden ? note(`${hidden} with another verdict not shown.`) : null);
}

function problemRow(problem, status) {
  const judged = problem.samples.filter((each) => each.status !== "error").length;
  const correct = problem.samples.filter((each) => each.status === "correct").length;
  const details = node("details", {}, node("summary", {},
    node("span", { class: "id" }, problem.id),
    node("span", { class: "prompt" }, problem.prompt.slice(0, 200)),
    node("span", { class: "gold" }, problem.answer === null ? "" : problem.answer.slice(0, 100)),
    marks(problem.samples),
    node("span", { class: "rate num" }, `${correct}/${judged}`)));
  details.addEventListener("toggle", () => {
    if (details.open && details.children.length === 1) details.append(problemBody(problem, status));
  });
  return details;
}

function difficulty(problem) {
  if (problem.rate === null) return "unjudged";
  return problem.rate === 0 ? "never" : problem.rate === 1 ? "always" : "mixed";
}

function searchText(problem) {
  problem.text ??= [
    problem.id, problem.prompt, problem.answer ?? "",
    ...problem.samples.flatMap((each) => [each.completion, each.answer ?? ""]),
  ].join("\n").toLowerCase();
  return problem.text;
}

function sorted(problems, order) {
  const longest = (problem) => Math.max(...problem.samples.map((each) => each.tokens));
  if (order === "hardest") return problems.sort((a, b) => (a.rate ?? 2) - (b.rate ?? 2));
  if (order === "easiest") return problems.sort((a, b) => (b.rate ?? -1) - (a.rate ?? -1));
  if (order === "longest") return problems.sort((a, b) => longest(b) - longest(a));
  return problems;
}

function browser({ results, problems }) {
  const list = node("div", { class: "problems", id: "problems" });
  const count = node("p", { class: "note", id: "count", role: "status" });
  const more = node("button", { class: "more", type: "button", onclick: drawMore }, "Show more");
  let matching = [], drawn = 0, timer = 0;

  const chooser = (label, options) => {
    const choices = options.map(([value, text]) => node("option", { value }, text));
    return node("select", { "aria-label": label, onchange: apply }, choices);
  };
  const search = node("input", {
    type: "search", id: "search", placeholder: "in prompts, answers and completions",
    oninput: () => { clearTimeout(timer); timer = setTimeout(apply, 150); },
  });
  const found = STATUSES.filter((status) => results.figures.statuses[status]);
  const status = chooser("verdict", [ANY, ...found.map((each) => [each, each])]);
  const level = chooser("difficulty", DIFFICULTIES);
  const order = chooser("order", ORDERS);
  // "=" keeps a column's value apart from the empty choice, and from an empty value.
  const columns = Object.entries(results.figures.breakdown).map(([column, values]) => [
    column,
    chooser(column, [ANY, ...Object.keys(values).map((each) => [`=${each}`, each])]),
  ]);

  function matches(problem, wanted) {
    return (!status.value || problem.samples.some((each) => each.status === status.value)) &&
      (!level.value || difficulty(problem) === level.value) &&
      columns.every(([column, chosen]) => !chosen.value || chosen.value === `=${problem.groups[column]}`) &&
      (!wanted || searchText(problem).includes(wanted));
  }
  function apply() {
    const wanted = search.value.trim().toLowerCase();
    matching = sorted(problems.filter((problem) => matches(problem, wanted)), order.value);
    drawn = 0;
    list.replaceChildren();
    drawMore();
    count.textContent = `${whole(matching.length)} of ${whole(problems.length)} problems`;
  }
  function drawMore() {
    const next = matching.slice(drawn, drawn + PAGE);
    list.append(...next.map((problem) => problemRow(problem, status.value)));
    drawn += next.length;
    more.hidden = drawn === matching.length;
    if (!drawn) list.append(node("p", { class: "none" }, "No problem matches these filters."));
  }

  apply();
  const labelled = [["verdict", status], ["difficulty", level], ...columns, ["order", order]];
  return [
    node("div", { class: "filters" },
      node("label", { class: "search" }, "search", search),
      labelled.map(([label, control]) => node("label", {}, label, control))),
    count,
    node("div", { class: "heads", "aria-hidden": "true" },
      ["problem", "prompt", "gold answer", "verdicts", "correct"].map((name) => node("span", {}, name))),
    list, more,
  ];
}

// ---- page ----

function setup({ figures, ...rest }) {
  return node("details", { class: "setup" },
    node("summary", {}, "Model, data and verifier versions, sampling, configuration"),
    node("pre", {}, JSON.stringify(rest, null, 2)));
}

function show(index) {
  const { results, problems } = report.benchmarks[index];
  const { figures, num_samples: n } = results;
  const samples = n === 1 ? "1 sample" : `${n} samples`;
  redraw = [];
  const breakdowns = Object.entries(figures.breakdown).map((each) => breakdownCard(...each, n));
  const cards = [
    curvesCard(figures, n), difficultyCard(problems, n), lengthCard(problems), statusCard(figures),
    ...breakdowns,
  ];
  const page = [
    node("h1", {}, results.model.name),
    note(`${results.benchmark}: ${whole(results.num_problems)} problems, ${samples} each, judged by ` +
      `${results.verifier.name}. Below a rate is its 95 % interval. rlvr ${report.version}`),
    overview(index),
    node("h2", {}, "Figures"), tiles(results),
    node("h2", {}, "Charts"), node("div", { class: "cards" }, cards),
    node("h2", {}, "Problems"), browser(report.benchmarks[index]),
    node("h2", {}, "How it was measured"), setup(results),
    report.shortened
      ? note(`Texts of more than ${whole(report.shortened)} characters are shortened here; ` +
          "completions.jsonl has them whole.")
      : null,
  ];
  document.getElementById("report").replaceChildren(...page.flat().filter((each) => each !== null));
  for (const draw of redraw) draw();
}

for (const { problems } of report.benchmarks) {
  for (const problem of problems) {
    const judged = problem.samples.filter((each) => each.status !== "error");
    const correct = judged.filter((each) => each.status === "correct");
    problem.rate = judged.length ? correct.length / judged.length : null;
  }
}
let resizing = 0;
window.addEventListener("resize", () => {
  clearTimeout(resizing);
  resizing = setTimeout(() => redraw.forEach((draw) => draw()), 100);
});
show(0);
