// Draws a session as lanes over time on a canvas: bars, marks, phases, and a cursor that moves without drawing anew.

import { Component, html, visible } from "./text.js";

const ROW = 22;
const GAP = 6;
const AXIS = 20;
const SHORTEST_US = 20_000;
const LANE_NAMES = {
  PHASE: "Phase", TURNS: "Turns", USER: "User", STT: "Words", THINK: "Thinking", TTS: "Voice", PLAYBACK: "Playback",
  TIMERS: "Timers", REJECTED: "Rejected",
};
const BAR_NAMES = { "invoke_agent orch": "turn" };

/** Rows of a session: one for each name of a bar in each lane, in the order of the lanes. */
export function rowsOf(session, lanes, shown) {
  const rows = [];
  for (const lane of lanes) {
    if (!shown.has(lane)) continue;
    const names = lane === "PHASE" ? ["phase"] : lane === "TIMERS" ? ["timers"] : [];
    if (!names.length) {
      for (const bar of session.bars) if (bar.lane === lane && !names.includes(bar.name)) names.push(bar.name);
      for (const bar of session.open) if (bar.lane === lane && !names.includes(bar.name)) names.push(bar.name);
    }
    const marks = session.events.filter((event) => event.lane === lane);
    if (!names.length && !marks.length) continue;
    (names.length ? names : [""]).forEach((name, index) => {
      const label = index ? "" : (LANE_NAMES[lane] ?? lane);
      rows.push({ lane, name, label, marks: index ? [] : marks, bars: [] });
    });
  }
  const at = new Map(rows.map((row) => [`${row.lane} ${row.name}`, row]));
  for (const bar of session.bars) place(at, bar);
  for (const bar of session.open) place(at, bar);
  return rows;
}

function place(at, bar) {
  const name = bar.lane === "PHASE" ? "phase" : bar.lane === "TIMERS" ? "timers" : bar.name;
  at.get(`${bar.lane} ${name}`)?.bars.push(bar);
}

/** Props: session, lanes, step, window {from, to}, onWindow, onStep, marked (Set of versions), label. */
export class Timeline extends Component {
  shouldComponentUpdate(next) {
    const { session, window: view, step, revision, shown, marked } = this.props;
    if (next.step !== step) this.moveCursor(next);
    return next.session !== session || next.window !== view || next.revision !== revision || next.shown !== shown ||
      next.marked !== marked;
  }

  componentDidMount() {
    this.observer = new ResizeObserver(() => this.draw());
    this.observer.observe(this.canvas);
    this.scheme = matchMedia("(prefers-color-scheme: dark)");
    this.scheme.onchange = () => this.draw();
    this.canvas.addEventListener("wheel", (event) => this.wheel(event), { passive: false });
    this.draw();
  }

  componentDidUpdate() {
    this.draw();
  }

  componentWillUnmount() {
    this.observer.disconnect();
    this.scheme.onchange = null;
  }

  get gutter() {
    return this.width < 480 ? 62 : 84;
  }

  x(us, view = this.props.window) {
    return this.gutter + ((us - view.from) / (view.to - view.from)) * (this.width - this.gutter);
  }

  us(x) {
    const { from, to } = this.props.window;
    return from + ((x - this.gutter) / (this.width - this.gutter)) * (to - from);
  }

  moveCursor({ session, step, window: view }) {
    if (step === undefined || !this.width) return;
    const x = this.x(session.timeOf(step), view);
    this.cursor.style.transform = `translateX(${x}px)`;
    this.cursor.hidden = x < this.gutter - 1 || x > this.width + 1;
  }

  wheel(event) {
    const { from, to } = this.props.window;
    const isZoom = event.ctrlKey || event.metaKey;
    if (!isZoom && Math.abs(event.deltaX) <= Math.abs(event.deltaY)) return; // the page scrolls
    event.preventDefault();
    if (isZoom) this.zoom(Math.exp(event.deltaY / 300), this.us(event.offsetX));
    else this.show(from + ((to - from) * event.deltaX) / 1000, to + ((to - from) * event.deltaX) / 1000);
  }

  zoom(factor, around) {
    const { from, to } = this.props.window;
    const length = Math.max(SHORTEST_US, (to - from) * factor);
    const share = (around - from) / (to - from);
    this.show(around - length * share, around + length * (1 - share));
  }

  show(from, to) {
    const end = Math.max(this.props.session.end, SHORTEST_US);
    const length = Math.min(to - from, end * 1.02);
    const begin = Math.min(Math.max(from, 0), end * 1.02 - length);
    this.props.onWindow?.({ from: begin, to: begin + length });
  }

  pointer(event) {
    this.pointers ??= new Map();
    if (event.type === "pointerdown") {
      this.canvas.setPointerCapture(event.pointerId);
      this.pointers.set(event.pointerId, event.offsetX);
    } else if (event.type === "pointermove" && this.pointers.has(event.pointerId)) {
      const before = [...this.pointers.values()];
      this.pointers.set(event.pointerId, event.offsetX);
      const [a, b] = [...this.pointers.values()];
      if (b !== undefined) {
        const [c, d] = before;
        if (Math.abs(a - b) > 8) this.zoom(Math.abs(c - d) / Math.abs(a - b), this.us((a + b) / 2));
        return;
      }
    } else {
      if (event.type !== "pointermove") this.pointers.delete(event.pointerId);
      return;
    }
    if (this.pointers.size === 1) this.props.onStep?.(this.props.session.stepAt(this.us(event.offsetX)));
  }

  /** The rows, made anew when the session has grown or other lanes are shown. */
  rows() {
    const { session, lanes, shown } = this.props;
    const of = [session, session.revision, shown];
    if (of.some((one, index) => one !== this.rowsAre?.[index])) [this.rowsAre, this.made] = [of, rowsOf(session, lanes, shown)];
    return this.made;
  }

  colours() {
    const style = getComputedStyle(this.canvas);
    const of = (name) => style.getPropertyValue(name).trim();
    return new Proxy({}, { get: (_, name) => of(`--${name}`) });
  }

  draw() {
    const { window: view } = this.props;
    const canvas = this.canvas;
    const width = (this.width = canvas.clientWidth); // reading it between changes of the page costs a layout
    if (!width) return;
    const rows = this.rows();
    const height = AXIS + rows.reduce((sum, row, index) => sum + ROW + (row.label && index ? GAP : 0), 4);
    const scale = window.devicePixelRatio || 1;
    const size = [Math.round(width * scale), Math.round(height * scale)];
    const at = canvas.getContext("2d");
    if (canvas.width !== size[0] || canvas.height !== size[1]) {
      [canvas.width, canvas.height] = size;
      canvas.style.height = `${height}px`;
    }
    at.setTransform(scale, 0, 0, scale, 0, 0);
    at.clearRect(0, 0, width, height);
    at.font = "12px system-ui, sans-serif";
    at.textBaseline = "middle";
    at.direction = "ltr";
    const ink = this.colours();
    this.axis(at, ink, width, height, view);
    let y = AXIS;
    rows.forEach((row, index) => {
      if (row.label && index) y += GAP;
      this.row(at, ink, row, y, width);
      y += ROW;
    });
    at.clearRect(0, AXIS, this.gutter - 4, height);
    y = AXIS;
    rows.forEach((row, index) => {
      if (row.label && index) y += GAP;
      at.fillStyle = ink.faint;
      at.fillText(row.label, 4, y + ROW / 2, this.gutter - 8);
      y += ROW;
    });
    this.moveCursor(this.props);
  }

  axis(at, ink, width, height, { from, to }) {
    const rough = (to - from) / Math.max(2, (width - this.gutter) / 110);
    const unit = 10 ** Math.floor(Math.log10(rough));
    const every = [1, 2, 5, 10].map((one) => one * unit).find((one) => one >= rough);
    at.fillStyle = ink.faint;
    at.strokeStyle = ink.line;
    at.lineWidth = 1;
    at.textAlign = "left";
    for (let us = Math.ceil(from / every) * every; us <= to; us += every) {
      const x = Math.round(this.x(us)) + 0.5;
      at.beginPath();
      at.moveTo(x, AXIS - 4);
      at.lineTo(x, height);
      at.stroke();
      at.fillText(every >= 1e6 ? `${us / 1e6} s` : `${+(us / 1e6).toFixed(3)} s`, x + 3, 9);
    }
  }

  row(at, ink, row, y, width) {
    const { from, to } = this.props.window;
    for (const bar of row.bars) {
      const end = bar.to ?? this.props.session.end;
      if (end < from || bar.from > to) continue;
      this.bar(at, ink, row, bar, end, y, width);
    }
    for (const event of row.marks) {
      if (event.at < from || event.at > to) continue;
      const x = this.x(event.at);
      at.fillStyle = row.lane === "REJECTED" ? ink.bad : ink.mark;
      at.beginPath();
      at.arc(x, y + ROW / 2, row.lane === "REJECTED" ? 4 : 2.5, 0, 7);
      at.fill();
    }
    if (row.lane !== "PHASE") return;
    const { marked } = this.props;
    at.fillStyle = ink.bad;
    for (const event of marked ? this.props.session.events : []) {
      if (marked.has(event.version)) at.fillRect(this.x(event.at) - 1, y - 2, 3, ROW + 2);
    }
  }

  bar(at, ink, row, bar, end, y, width) {
    const left = Math.max(this.x(bar.from), this.gutter - 6);
    const right = Math.min(Math.max(this.x(end), left + 2), width);
    const colour = bar.lane === "PHASE" ? ink[`phase-${bar.name}`] : ink[`lane-${bar.lane}`] || ink["lane-THINK"];
    at.globalAlpha = bar.lane === "TIMERS" ? 0.55 : 1;
    at.fillStyle = bar.error ? ink.bad : colour;
    const thin = bar.lane === "TIMERS" ? 8 : ROW - 5;
    at.beginPath();
    at.roundRect(left, y + (ROW - thin) / 2, right - left, thin, 3);
    at.fill();
    at.globalAlpha = 1;
    const said = bar.lane === "PLAYBACK" ? this.props.session.heard(bar) : null;
    const ghost = said?.unheard ? this.ghost(at, ink, bar, right, y, width) : 0;
    if (bar.lane === "TIMERS") {
      const name = visible(bar.name);
      if (right - left > name.length * 6.5) this.write(at, ink.text, name, left + 4, right, y);
      return;
    }
    const dark = bar.lane === "PHASE" ? ink[`on-${bar.name}`] || ink["on-bar"] : ink["on-bar"];
    this.write(at, dark, words(bar, said), left + 5, right, y);
    if (ghost) this.write(at, ink.text, visible(said.unheard), right + 5, right + ghost, y);
  }

  /** The rest of an answer that nobody heard, behind the part that was played. */
  ghost(at, ink, bar, right, y, width) {
    const rest = this.props.session.restMs(bar) * 1000;
    const next = this.props.session.bars.find((one) => one.lane === "PLAYBACK" && one.from >= bar.to && one !== bar);
    const end = Math.min((bar.to ?? 0) + rest, next ? next.from : Infinity);
    const long = Math.min(this.x(end), width) - right;
    if (long < 3) return 0;
    at.strokeStyle = ink["lane-PLAYBACK"];
    at.setLineDash([4, 3]);
    at.beginPath();
    at.roundRect(right + 1, y + 3.5, long - 2, ROW - 7, 3);
    at.stroke();
    at.setLineDash([]);
    return long;
  }

  write(at, colour, text, left, right, y) {
    if (right - left < 16 || !text) return;
    at.save();
    at.beginPath();
    at.rect(left, y, right - left - 3, ROW);
    at.clip();
    at.fillStyle = colour;
    at.fillText(text.slice(0, 300), left, y + ROW / 2 + 0.5);
    at.restore();
  }

  render({ label, step }) {
    const pointer = (event) => this.pointer(event);
    return html`<div class="timeline">
      <canvas role="img" aria-label=${label} ref=${(canvas) => (this.canvas = canvas)} onPointerDown=${pointer}
        onPointerMove=${pointer} onPointerUp=${pointer} onPointerCancel=${pointer}></canvas>
      ${step === undefined ? null : html`<div class="cursor" ref=${(cursor) => (this.cursor = cursor)}></div>`}
    </div>`;
  }
}

function words(bar, said) {
  if (bar.lane === "PHASE") return visible(bar.name + (bar.label ? ` (${bar.label})` : ""));
  if (said) return visible(said.outcome === "interrupted" ? said.heard_text || "nothing heard" : said.text);
  const name = BAR_NAMES[bar.name] ?? bar.name.replaceAll("_", " ");
  const title = bar.lane === "TURNS" ? `${name} ${bar.turn}` : name;
  const more = bar.error || bar.label || (bar.lane === "TURNS" ? bar.facts["orch.turn.outcome"] : "") || "";
  return visible(more ? `${title}: ${more}` : title);
}
