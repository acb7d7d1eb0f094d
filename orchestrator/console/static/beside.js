// Two traces beside each other: lanes in one window of time, the decisions that differ, and both logs.

import { Session } from "./data.js";
import { Table } from "./policy.js";
import { Component, Said, html } from "./text.js";
import { Timeline } from "./timeline.js";

const NEAR = 2;

/** A page without states, as a session that can be drawn. */
export const traceOf = (page) => new Session({ ...page, steps: steps(page.events), blank: {} });

function steps(events) {
  const found = [];
  for (const event of events) {
    if (event.kind === "input" || !found.length) found.push({ version: event.version, changes: [], whole: {} });
    found.at(-1).version = event.version;
  }
  return found;
}

/** Versions of events that the other trace does not have, by their lines in the log. */
function differing(session, other) {
  const key = (event) => `${event.name} ${JSON.stringify(event.payload.reason ?? event.payload.outcome ?? "")} ${event.turn}`;
  const DECISIONS = new Set(["STATE_CHANGED", "USER_INTERRUPTED", "ANSWER_ENDED", "TURN_ENDED", "SESSION_ENDED", "EVENT_REJECTED", "PlayFiller"]);
  const counts = new Map();
  for (const event of other.events) counts.set(key(event), (counts.get(key(event)) ?? 0) + 1);
  const found = new Set();
  for (const event of session.events) {
    if (!DECISIONS.has(event.name)) continue;
    const left = counts.get(key(event)) ?? 0;
    if (left) counts.set(key(event), left - 1);
    else found.add(event.version);
  }
  return found;
}

/** Props: old, new (pages), report (of the command line), facts, names: the two titles. */
export class Beside extends Component {
  state = { window: null };

  shouldComponentUpdate(next, state) {
    return next.report !== this.props.report || state.window !== this.state.window;
  }

  render({ old, new: is, report, facts, names }, { window: chosen }) {
    if (this.made !== report) {
      this.made = report;
      this.traces = [traceOf(old), traceOf(is)];
      this.marked = [differing(this.traces[0], this.traces[1]), differing(this.traces[1], this.traces[0])];
      this.shown = new Set(facts.lanes.filter((lane) => !["TIMERS", "TURNS"].includes(lane)));
    }
    const [one] = report.recordings;
    const end = Math.max(...this.traces.map((trace) => trace.end)) * 1.02;
    const view = chosen ?? { from: 0, to: Math.max(end, 20_000) };
    return html`<${Table} changes=${one.decisions} waits=${one.wait_ms} names=${names} />
      ${this.traces.map((session, index) => html`<h3>${names[index]}</h3><${Timeline} session=${session} lanes=${facts.lanes} shown=${this.shown}
        window=${view} revision=${report} marked=${this.marked[index]} label=${`${names[index]}: ${session.events.length} events, ${this.marked[index].size} decisions differ`}
        onWindow=${(next) => this.setState({ window: next })} />`)}
      <p class="faint">Red marks: decisions that the other trace does not make.</p>
      <h3>Both logs</h3><${Logs} old=${one.old} new=${one.new} names=${names} />`;
  }
}

/** Both golden logs, line by line; equal stretches are folded. */
function Logs({ old, new: is, names }) {
  const rows = aligned(old.map(plain), is.map(plain));
  const near = rows.map((_, index) => rows.slice(Math.max(0, index - NEAR), index + NEAR + 1).some((row) => row.differs));
  const shown = [];
  let folded = 0;
  rows.forEach((row, index) => {
    if (near[index]) {
      if (folded) shown.push({ gap: folded });
      folded = 0;
      shown.push(row);
    } else folded += 1;
  });
  if (folded) shown.push({ gap: folded });
  return html`<div class="beside mono" role="group" aria-label="Both logs"><b>${names[0]}</b><b>${names[1]}</b>
    ${shown.map((row) => (row.gap ? html`<div class="gap">… ${row.gap} equal lines</div>`
      : html`<div class=${row.differs ? "differs" : ""}><${Said} of=${row.left} /></div><div class=${row.differs ? "differs" : ""}><${Said} of=${row.right} /></div>`))}</div>`;
}

const plain = (line) => line.slice(line.indexOf("] ") + 2);

/** The longest common subsequence as rows; beyond a million cells, line by line. */
function aligned(left, right) {
  if (left.length * right.length > 1e6) {
    return Array.from({ length: Math.max(left.length, right.length) }, (_, at) => ({
      left: left[at] ?? "", right: right[at] ?? "", differs: left[at] !== right[at] }));
  }
  const best = Array.from({ length: left.length + 1 }, () => new Uint32Array(right.length + 1));
  for (let a = left.length - 1; a >= 0; a--) {
    for (let b = right.length - 1; b >= 0; b--) {
      best[a][b] = left[a] === right[b] ? best[a + 1][b + 1] + 1 : Math.max(best[a + 1][b], best[a][b + 1]);
    }
  }
  const rows = [];
  let [a, b] = [0, 0];
  while (a < left.length || b < right.length) {
    if (a < left.length && b < right.length && left[a] === right[b]) rows.push({ left: left[a++], right: right[b++], differs: false });
    else if (b >= right.length || (a < left.length && best[a + 1][b] >= best[a][b + 1])) rows.push({ left: left[a++], right: "", differs: true });
    else {
      const last = rows.at(-1);
      if (last?.differs && !last.right) last.right = right[b++];
      else rows.push({ left: "", right: right[b++], differs: true });
    }
  }
  return rows;
}
