// The page of one session: lanes, a cursor that goes through its steps, the transcript, and views of the step.

import { Session, ask, follow } from "./data.js";
import { Diagram, Share, StateView, StepView, WhyView } from "./panels.js";
import { Component, Said, counted, html, length, link, moment, oneLine, seconds } from "./text.js";
import { Timeline } from "./timeline.js";
import { TurnView } from "./turns.js";
import { WhatIf } from "./whatif.js";

const VIEWS = [["step", "Step"], ["state", "State"], ["why", "Why"], ["turn", "Turn"], ["phases", "Phases"],
  ["what-if", "What if"], ["share", "Share"]];

/** Props: name (key of the session), query, go, facts. */
export class SessionPage extends Component {
  state = { session: null, problem: "", step: 0, chosen: null, window: null, hasTimers: false, revision: 0, link: "", follows: true };

  async componentDidMount() {
    try {
      const session = new Session(await ask(`/api/sessions/${encodeURIComponent(this.props.name)}`));
      session.goTo(0);
      document.title = `${session.key} · orch console`;
      this.shown = this.shownLanes(false);
      window.orch = { session }; // for tests and curious people; the page itself does not use it
      this.setState({ session, window: { from: 0, to: Math.max(session.end * 1.02, 20_000) } }, () => this.start(session));
    } catch (error) {
      this.setState({ problem: error.message });
    }
  }

  start(session) {
    const { query } = this.props;
    const turn = session.turns.find((one) => String(one.turn) === query.get("turn"));
    const version = Number(query.get("v")) || (turn && session.starts.get(turn.turn));
    this.toStep(version ? session.stepOf(version) : session.isLive ? session.steps.length - 1 : 0, version || null);
    if (!session.isLive) return;
    this.setState({ link: "live" });
    this.stop = follow(session, { onChange: () => this.grew(), onState: (state) => this.setState({ link: state }) });
  }

  grew() {
    const { session, follows, window: view } = this.state;
    const isWhole = view.from === 0;
    this.setState({
      revision: session.revision,
      ...(isWhole ? { window: { from: 0, to: Math.max(session.end * 1.02, 20_000) } } : {}),
    });
    if (follows) this.toStep(session.steps.length - 1);
  }

  componentDidUpdate({ query }) {
    const version = this.props.query.get("v");
    const { session } = this.state;
    if (!session || version === query.get("v") || !version || version === String(this.shownVersion)) return;
    this.toStep(session.stepOf(Number(version)), Number(version));
  }

  componentWillUnmount() {
    this.stop?.();
    clearTimeout(this.writing);
    document.title = "orch console";
  }

  /** Goes to a step. The address follows a moment later: browsers limit how often it may change. */
  toStep(step, version = null) {
    const { session } = this.state;
    const at = Math.min(Math.max(step, 0), session.steps.length - 1);
    session.goTo(at);
    this.setState({ step: at, chosen: version, follows: at === session.steps.length - 1 });
    this.shownVersion = version ?? session.eventsOf(at)[0].version;
    this.keepInSight(session.timeOf(at));
    clearTimeout(this.writing);
    this.writing = setTimeout(() => this.write({ v: this.shownVersion, turn: null }), 200);
  }

  write(changes) {
    const query = new URLSearchParams(location.search);
    for (const [name, value] of Object.entries(changes)) {
      if (value === null) query.delete(name);
      else query.set(name, value);
    }
    this.props.go(`${location.pathname}?${query}`, { replace: true });
  }

  keepInSight(us) {
    const { from, to } = this.state.window;
    if (us >= from && us <= to) return;
    const begin = Math.max(0, us - (to - from) / 2);
    this.setState({ window: { from: begin, to: begin + to - from } });
  }

  shownLanes(hasTimers) {
    const { lanes } = this.props.facts;
    return new Set(hasTimers ? lanes : lanes.filter((lane) => lane !== "TIMERS"));
  }

  zoom(factor) {
    const { session, step, window: { from, to } } = this.state;
    const middle = session.timeOf(step);
    const size = Math.max(20_000, (to - from) * factor);
    const end = Math.max(session.end * 1.02, 20_000);
    if (size >= end) this.setState({ window: { from: 0, to: end } });
    else {
      const begin = Math.min(Math.max(0, middle - size / 2), end - size);
      this.setState({ window: { from: begin, to: begin + size } });
    }
  }

  render({ query, go, facts, name }, { session, problem, step, chosen, window: view, hasTimers, revision, link: connection, follows }) {
    if (problem) return html`<main><h1><${Said} of=${name} /></h1><p class="panel problem" role="alert">${problem}</p><p><a href="/">All sessions</a></p></main>`;
    if (!session) return html`<main><p class="faint">Loading…</p></main>`;
    const events = session.eventsOf(step);
    const event = events.find((one) => one.version === chosen) ?? events[0];
    const where = `${session.state.phase}, version ${event.version}, ${oneLine(event, 80)}, ${seconds(event.at)}`;
    const to = (version) => this.toStep(session.stepOf(version), version);
    const view_ = query.get("view") ?? "step";
    return html`<main>
      <${Header} session=${session} connection=${connection} />
      <section class="panel" aria-label="Timeline">
        <${Timeline} session=${session} lanes=${facts.lanes} shown=${this.shown} step=${step} window=${view} revision=${revision}
          label=${`Lanes of ${name}: ${session.events.length} events in ${length(session.end)}. The slider below goes through them.`}
          onStep=${(at) => this.toStep(at)} onWindow=${(next) => this.setState({ window: next })} />
        <div class="scrub">
          <div class="row">
            <button onClick=${() => this.toStep(step - 1)} disabled=${step === 0} aria-label="Step back">◀</button>
            <button onClick=${() => this.toStep(step + 1)} disabled=${step === session.steps.length - 1} aria-label="Step on">▶</button>
          </div>
          <input type="range" name="scrub" aria-label="Step" min="0" max=${session.steps.length - 1} value=${step} aria-valuetext=${where}
            onInput=${(one) => this.toStep(Number(one.target.value))} />
          <div class="row">
            <button onClick=${() => this.zoom(0.5)} aria-label="Zoom in">+</button>
            <button onClick=${() => this.zoom(2)} aria-label="Zoom out">−</button>
            <label class="check"><input type="checkbox" name="timers" checked=${hasTimers} onChange=${(one) => {
              this.shown = this.shownLanes(one.target.checked);
              this.setState({ hasTimers: one.target.checked });
            }} />timers</label>
            ${connection && connection !== "ended" && html`<label class="check"><input type="checkbox" name="follow" checked=${follows}
              onChange=${(one) => (one.target.checked ? this.toStep(session.steps.length - 1) : this.setState({ follows: false }))} />follow</label>`}
          </div>
        </div>
        <p class="faint mono where">${seconds(event.at)} · version ${event.version} · ${session.state.phase} · ${oneLine(event)}</p>
      </section>
      <div class="two">
        <${TranscriptPanel} session=${session} revision=${revision} now=${session.steps[step].version} onGo=${to} />
        <section class="panel" aria-label="Details">
          <nav class="views" aria-label="Views">${VIEWS.map(([one, words]) => html`<a aria-current=${one === view_ ? "page" : null}
            href=${this.address({ view: one })}>${words}</a>`)}</nav>
          ${view_ === "step" && html`<${StepView} ...${{ session, events, event, to }} />`}
          ${view_ === "state" && html`<${StateView} session=${session} step=${step} />`}
          ${view_ === "why" && html`<${WhyView} ...${{ session, event, to, revision }} />`}
          ${view_ === "turn" && html`<${TurnView} ...${{ session, facts, events, to }} />`}
          ${view_ === "phases" && html`<${Diagram} ...${{ session, facts, step, events }} />`}
          ${view_ === "what-if" && html`<${WhatIf} ...${{ session, facts, settings: query.getAll("set"), write: (set) => this.writeSettings(set) }} />`}
          ${view_ === "share" && html`<${Share} ...${{ session, version: event.version }} />`}
        </section>
      </div>
    </main>`;
  }

  address(changes) {
    const query = new URLSearchParams(this.props.query);
    for (const [name, value] of Object.entries(changes)) query.set(name, value);
    if (this.shownVersion) query.set("v", this.shownVersion);
    return `?${query}`;
  }

  writeSettings(settings) {
    const query = new URLSearchParams(location.search);
    query.delete("set");
    for (const one of settings) query.append("set", one);
    this.props.go(`${location.pathname}?${query}`, { replace: true });
  }
}

function Header({ session, connection }) {
  const { summary } = session;
  const words = { live: "live", reconnecting: "reconnecting…", refused: "no longer live: load the page again", ended: "ended" }[connection];
  return html`<div class="row head">
    <h1 class="grow"><${Said} of=${session.key} /></h1>
    ${words && html`<span class=${connection === "live" ? "chip live" : connection === "ended" ? "chip" : "chip away"} role="status">${words}</span>`}
    <span class="chip"><${Said} of=${summary.outcome} /></span>
    ${session.opened_us > 1e12 && html`<span class="chip">${moment(session.opened_us)} UTC</span>`}
    <span class="chip">${length(session.end)}</span>
    <span class="chip">${counted(summary.turns, "turn")}</span>
    ${summary.interruptions > 0 && html`<span class="chip">${counted(summary.interruptions, "interruption")}</span>`}
    ${summary.failures > 0 && html`<span class="chip bad">${counted(summary.failures, "failure")}</span>`}
  </div>`;
}

const GROUP = 20; // lines that the browser lays out together, when they come into view

/** The words of both, drawn anew only when there are new ones; the line of the cursor is marked in place. */
class TranscriptPanel extends Component {
  shouldComponentUpdate(next) {
    if (next.now !== this.props.now) this.mark();
    return next.revision !== this.props.revision || next.session !== this.props.session;
  }

  componentDidMount() {
    this.mark();
  }

  componentDidUpdate() {
    this.mark();
  }

  componentWillUnmount() {
    cancelAnimationFrame(this.marking);
  }

  /** Marks the line of the cursor with the next frame: asking where it stands costs a layout of the page. */
  mark() {
    cancelAnimationFrame(this.marking);
    this.marking = requestAnimationFrame(() => this.markNow());
  }

  markNow() {
    const { now, session: { said } } = this.props;
    let low = -1;
    for (let index = 0, high = said.length - 1; index <= high; ) {
      const middle = (index + high) >> 1;
      if (said[middle].version <= now) [low, index] = [middle, middle + 1];
      else high = middle - 1;
    }
    const line = this.list.children[Math.floor(low / GROUP)]?.children[low % GROUP];
    if (line === this.marked) return;
    this.marked?.classList.remove("now");
    line?.classList.add("now");
    this.marked = line;
    if (!line) return;
    const [seen, { top, bottom }] = [this.list.getBoundingClientRect(), line.getBoundingClientRect()];
    if (top < seen.top || bottom > seen.bottom) this.list.scrollTop += top - seen.top - 60;
  }

  render({ session, onGo }) {
    const { said } = session;
    const groups = Array.from({ length: Math.ceil(said.length / GROUP) }, (_, at) => said.slice(at * GROUP, (at + 1) * GROUP));
    return html`<section class="panel" aria-label="Transcript"><h2>Transcript</h2>
      <div class="scroll transcript" tabindex="0" role="group" aria-label="Transcript" ref=${(list) => (this.list = list)}>
        ${groups.map((lines) => html`<ol key=${lines[0].version}>${lines.map((one) => html`<li key=${one.version} class=${`said ${one.speaker}`}>
          <span class="who">${one.speaker === "user" ? "User" : "Agent"} · ${seconds(one.at)}${outcome(one)}</span>
          <a href=${link(session.key, { v: one.version })} onClick=${(event) => { event.preventDefault(); event.stopPropagation(); onGo(one.version); }}>
            <${Words} said=${one} /></a>
          ${one.said_over && html`<span class="who">said over it: <${Said} of=${one.said_over} /></span>`}
        </li>`)}</ol>`)}
      </div>
      ${said.length === 0 && html`<p class="faint">Nothing was said.</p>`}
    </section>`;
  }
}

function outcome(one) {
  if (one.outcome === "interrupted") return ` · interrupted after ${(one.heard_ms / 1000).toFixed(1)} s`;
  return one.outcome === "failed" || one.outcome === "filler" ? ` · ${one.outcome}` : "";
}

function Words({ said }) {
  if (!said.unheard) return html`<${Said} of=${said.text} />`;
  return html`<span class="heard"><${Said} of=${said.heard_text} /></span>${said.heard_text && " "}<span class="visually-hidden">not heard: </span
    ><span class="unheard"><${Said} of=${said.unheard} /></span>`;
}
