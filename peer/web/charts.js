// The two curves, drawn by uPlot.

import { as } from "/web/format.js";
import uPlot from "/web/uplot/uPlot.esm.js";

function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

function axis(extra) {
  return {
    stroke: () => colour("--soft"),
    grid: { stroke: () => colour("--line"), width: 1 },
    ticks: { show: false },
    font: "12px system-ui, sans-serif",
    ...extra,
  };
}

class Curve {
  constructor(name, { write, series, what, range }) {
    this.place = document.getElementById(`${name}-chart`);
    this.reading = document.getElementById(`${name}-reading`);
    this.write = write;
    this.what = what;
    this.names = series.map((one) => one.label);
    this.plot = new uPlot(
      {
        ...this.size(),
        legend: { show: false },
        padding: [8, 8, 0, 0],
        cursor: { y: false, drag: { setScale: false, x: false, y: false }, points: { size: 7 } },
        scales: { x: { time: false }, y: { range: (_, low, high) => range(low, high) } },
        axes: [
          axis({ size: 28, space: 60, incrs: [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 5000, 10000] }),
          axis({ size: 52, space: 36, values: (_, ticks) => ticks.map((tick) => as.large(tick)) }),
        ],
        series: [{}, ...series],
        hooks: { setCursor: [(plot) => this.read(plot.cursor.idx)] },
      },
      [[], ...series.map(() => [])],
      this.place,
    );
    new ResizeObserver(() => this.plot.setSize(this.size())).observe(this.place);
  }

  size() {
    return { width: Math.max(this.place.clientWidth, 100), height: Math.max(this.place.clientHeight, 100) };
  }

  draw(data) {
    this.plot.setData(data);
    this.read(this.plot.cursor.idx);
    const rounds = data[0];
    const newest = this.said(rounds.length - 1);
    const label = rounds.length
      ? `${this.what}, rounds ${rounds[0]} to ${rounds[rounds.length - 1]}; ${newest}. Figures by round are in the table of rounds.`
      : `${this.what}: nothing yet`;
    if (this.place.getAttribute("aria-label") !== label) this.place.setAttribute("aria-label", label);
  }

  said(index) {
    const data = this.plot.data;
    if (index < 0 || index >= data[0].length) return "";
    const values = this.names.map((name, i) => `${name} ${this.write(data[i + 1][index])}`);
    return `${data[0][index]}: ${values.join(", ")}`;
  }

  read(index) {
    const text = this.said(index ?? this.plot.data[0].length - 1) || "\u00a0";
    if (this.reading.textContent !== text) this.reading.textContent = text;
  }
}

/** From low to high with some room, also where both are the same. */
function room(low, high) {
  if (low === null || high === null) return [0, 1];
  const margin = high > low ? 0.08 * (high - low) : Math.abs(high) * 0.1 || 1;
  return [low >= 0 ? Math.max(0, low - margin) : low - margin, high + margin];
}

export function charts() {
  const loss = new Curve("loss", {
    what: "Loss by round",
    range: room,
    write: as.loss,
    series: [
      { label: "held-out", stroke: () => colour("--accent"), width: 2, spanGaps: true, points: { show: false } },
      { label: "training", stroke: () => colour("--faint"), width: 1.25, spanGaps: true, points: { show: false } },
    ],
  });
  loss.plot.axes[1].values = (_, ticks) => ticks.map((tick) => tick.toFixed(2));
  const speed = new Curve("speed", {
    what: "Tokens per second of the swarm",
    range: (_, high) => [0, high > 0 ? 1.15 * high : 1],
    write: as.large,
    series: [
      { label: "tokens/s", stroke: () => colour("--accent"), fill: () => colour("--wash"), width: 2, spanGaps: true, points: { show: false } },
    ],
  });
  return {
    draw(rounds, speeds) {
      const numbers = rounds.map((record) => record.round);
      loss.draw([numbers, rounds.map((record) => record.eval_loss), rounds.map((record) => record.loss)]);
      speed.draw([numbers, speeds]);
    },
    redraw() {
      for (const curve of [loss, speed]) curve.plot.redraw(false, true);
    },
  };
}
