// Where the time of a turn went: its stages and bars as a waterfall, with the critical path.

import { To } from "./panels.js";
import { Component, Said, html, ms, visible } from "./text.js";

/** The turn of the cursor, and all turns with the wait for their answers. */
export function TurnView({ session, facts, events, to }) {
  const turn = session.turns.find((one) => one.turn === events.at(-1).turn) ?? session.turns[0];
  if (!turn) return html`<p class="faint">There is no turn yet.</p>`;
  return html`<h3>Turn ${turn.turn}: <${Said} of=${turn.text} /></h3>
    <p>${turn.outcome || "not over"}${turn.intent && html`, intent <${Said} of=${turn.intent} />`}${turn.fallback && html`,
      <span class="bad">fallback: <${Said} of=${turn.fallback} /></span>`}. ${turn.response_us === null ? "No answer was heard."
      : html`The first audio came <b>${ms(turn.response_us)}</b> after the end of the words.`}</p>
    <${Waterfall} ...${{ session, turn }} />
    <${Turns} ...${{ session, facts, to, revision: session.revision, from: Math.floor(session.turns.indexOf(turn) / MOST) * MOST }} />`;
}

const MOST = 20; // rows: with thousands, each step of the cursor would paint them all again
const REST_MS = 120;

/** A row for each turn near the cursor; drawn anew when there are new ones, and when the cursor rests elsewhere. */
class Turns extends Component {
  shouldComponentUpdate(next) {
    clearTimeout(this.waiting);
    if (next.session !== this.props.session || next.revision !== this.props.revision) return true;
    if (next.from !== this.from) this.waiting = setTimeout(() => this.forceUpdate(), REST_MS);
    return false;
  }

  componentWillUnmount() {
    clearTimeout(this.waiting);
  }

  render({ session, facts, to, from }) {
    this.from = from;
    const [turns, all] = [session.turns.slice(from, from + MOST), session.turns.length];
    const more = (at, words) => session.turns[at] && html` <${To} ...${{ session, to }} version=${session.starts.get(session.turns[at].turn)}>${words}<//>`;
    const us = (one, name) => one.stages.filter((stage) => stage.name === name).map((stage) => Math.round((stage.to - stage.from) / 1000));
    return html`<h3>${all > MOST ? `Turns ${from + 1} to ${from + turns.length} of ${all}` : "All turns"}</h3>
      ${all > MOST && html`<p>${more(from - MOST, "Earlier turns")}${more(from + MOST, "Later turns")}</p>`}
      <div class="wide" tabindex="0" role="group" aria-label="Turns"><table><thead><tr><th>Turn</th><th>Words</th>
        ${facts.stages.map((stage) => html`<th class="number">${stage}</th>`)}<th class="number">Wait</th></tr></thead>
        <tbody>${turns.map((one) => html`<tr key=${one.turn}>
          <td><${To} ...${{ session, to }} version=${session.starts.get(one.turn)}>${one.turn}<//></td><td><${Said} of=${one.text} /></td>
          ${facts.stages.map((name) => html`<td class="number">${us(one, name)}</td>`)}
          <td class="number">${ms(one.response_us)}</td></tr>`)}</tbody></table></div>`;
  }
}

function Waterfall({ session, turn }) {
  const critical = new Set(turn.stages.flatMap((stage) => stage.waits_for));
  const bars = session.barsOf(turn.turn).filter((bar) => !["PHASE", "TIMERS", "TURNS"].includes(bar.lane));
  bars.sort((a, b) => a.from - b.from);
  const from = Math.min(...bars.map((bar) => bar.from), ...turn.stages.map((stage) => stage.from));
  const to = Math.max(...bars.map((bar) => bar.to ?? session.end), ...turn.stages.map((stage) => stage.to), from + 1);
  // Without keys: a step into another turn changes the rows that are there.
  const line = (name, begin, end, colour, isCritical) => html`<div class=${`line ${isCritical ? "critical" : ""}`}>
    <span class="name">${visible(name)}</span>
    <svg viewBox="0 0 1000 10" preserveAspectRatio="none" aria-hidden="true"><rect x=${((begin - from) / (to - from)) * 1000} y=${isCritical ? 0 : 2}
      width=${Math.max(3, ((end - begin) / (to - from)) * 1000)} height=${isCritical ? 10 : 6} fill=${colour} opacity=${isCritical ? 1 : 0.6} /></svg>
    <span>${ms(end - begin)}</span></div>`;
  return html`<div class="waterfall">
    ${turn.stages.map((stage) => line(stage.name, stage.from, stage.to, "var(--text)", true))}
    <div class="gap"></div>
    ${bars.map((bar) => line(`${bar.name.replaceAll("_", " ")}${bar.error ? ` (${bar.error})` : ""}`, bar.from, bar.to ?? session.end,
      bar.error ? "var(--bad)" : `var(--lane-${bar.lane})`, critical.has(bar.id)))}</div>
    <p class="faint">Above: the stages of the wait. Below: the work; bold: the stage waited for it (critical path).</p>`;
}
