// Views of a step: its events, the state and what changed, its causes, the phases, and what to do with the session.

import { ask } from "./data.js";
import { Component, Said, html, link, oneLine, seconds, visible } from "./text.js";

const KINDS = { input: "input", command: "command", event: "decided" };

/** A link to another version of the same session. */
export function To({ session, version, to, children }) {
  return html`<a href=${link(session.key, { v: version })} onClick=${(event) => {
    event.preventDefault();
    event.stopPropagation();
    to(version);
  }}>${children ?? `version ${version}`}</a>`;
}

/** The events of a step, the chosen one in full, with its cause and its effects. */
export function StepView({ session, events, event, to }) {
  const cause = session.event(event.cause);
  const effects = session.effects(event.version);
  return html`<ol class="events">${events.map((one) => html`<li class=${one === event ? "chosen" : ""} key=${one.version}>
      <span class="chip">${KINDS[one.kind]}</span> <${To} ...${{ session, to }} version=${one.version}>${one.version}<//>
      <code> ${oneLine(one)}</code></li>`)}</ol>
    <h3>Version ${event.version}, ${visible(event.name)}</h3>
    <p>${cause ? html`Because of <${To} ...${{ session, to }} version=${cause.version} /> <code>${oneLine(cause, 90)}</code>`
      : "It came from outside; no event of this session caused it."}</p>
    ${effects.length > 0 && html`<p>It led to ${effects.slice(0, 12).map((one, index) => html`${index ? ", " : ""}<${To} ...${{ session, to }}
      version=${one.version}>${one.version} ${visible(one.name)}<//>`)}${effects.length > 12 ? " …" : ""}</p>`}
    <${Fields} of=${event.payload} />`;
}

function Fields({ of }) {
  const fields = Object.entries(of ?? {});
  if (!fields.length) return html`<p class="faint">It says nothing more.</p>`;
  return html`<dl class="fields">${fields.map(([name, value]) => html`<dt>${name}</dt><dd class="mono"><${Said} of=${shown(value)} /></dd>`)}</dl>`;
}

const shown = (value) => (typeof value === "string" ? value || "(empty)" : JSON.stringify(value));

/** The state after the step; the fields that the step changed come first, with their old values. */
export function StateView({ session }) {
  const { changed, state, steps, at } = session;
  const names = new Set(changed.map((one) => one.name.split(".")[0]));
  const short = (value) => visible((value === undefined ? "(nothing)" : shown(value)).slice(0, 300));
  return html`${steps[at].problem && html`<p class="bad">${steps[at].problem}</p>`}
    <h3>What the step changed</h3>
    ${changed.length ? html`<dl class="fields">${changed.map(({ name, old, now }) => html`<dt><${Said} of=${name} /></dt>
      <dd class="mono"><span class="faint">${short(old)} → </span><span class="changed">${short(now)}</span></dd>`)}</dl>`
      : html`<p class="faint">Nothing.</p>`}
    <h3>The whole state</h3>
    <dl class="fields">${Object.entries(state).map(([name, value]) => html`<dt>${name}</dt>
      <dd class="mono"><span class=${names.has(name) ? "changed" : ""}>${short(value)}</span></dd>`)}</dl>`;
}

/** The proven causes of an event: the JSON of `orch why`. */
export class WhyView extends Component {
  state = { found: null, problem: "", of: 0 };

  componentDidMount() {
    this.load();
  }

  componentDidUpdate({ event }) {
    if (event.version !== this.props.event.version) this.load();
  }

  load() {
    clearTimeout(this.waiting); // while the cursor moves, nothing is asked
    this.waiting = setTimeout(async () => {
      const { session, event } = this.props;
      try {
        const found = await ask(`/api/sessions/${encodeURIComponent(session.key)}/why?at=${event.version}`);
        if (this.props.event === event) this.setState({ found, problem: "", of: event.version });
      } catch (error) {
        this.setState({ found: null, problem: error.message, of: event.version });
      }
    }, this.state.of ? 250 : 0);
  }

  componentWillUnmount() {
    clearTimeout(this.waiting);
  }

  render({ session, event, to }, { found, problem, of }) {
    if (problem) return html`<p class="bad" role="alert">${problem}</p>`;
    if (!found || of !== event.version) return html`<p class="faint" role="status">Each cause is proved by a replay without it…</p>`;
    const one = (it) => html`<${To} ...${{ session, to }} version=${it.version}>${it.version}<//> <code>${visible(it.said)}</code>
      <span class="faint"> ${seconds(it.at_us - session.opened_us)}</span>`;
    const proof = (it) => (it.is_needed === null ? "" : it.is_needed ? html` <span class="good">✓ without it, it is decided otherwise</span>`
      : html` <span class="faint">(without it, the same is decided)</span>`);
    const [first, ...rest] = found.chain;
    return html`<ol class="causes">
        <li>${one(first)}</li>
        ${rest.map((it) => html`<li>because ${one(it)}${proof(it)}</li>`)}
        ${found.also.map((it) => html`<li>and because of ${one(it)}${proof({ is_needed: true })}</li>`)}
        ${found.beside && html`<li>not because of ${one(found.beside)}${proof({ is_needed: false })}</li>`}
      </ol>
      ${found.is_decided ? html`<p>Decided in ${found.phase}. It would have been otherwise, had there been</p>
      ${found.conditions.length ? html`<ol class="causes conditions">${found.conditions.map((it) => html`<li><code><${Said} of=${it.what} />:${" "}
          <${Said} of=${it.with} /></code> instead of <code><${Said} of=${it.was} /></code>, then <code class="faint"><${Said} of=${it.then} /></code></li>`)}</ol>`
        : html`<p>another input: nothing else was looked at.</p>`}`
      : html`<p>Today's reducer does not decide this event.</p>`}`;
  }
}

/** The phases as a diagram: the phase of the cursor is lit, with the change that led to it. */
export function Diagram({ session, facts, events }) {
  const names = facts.phases;
  const place = (name) => {
    const angle = (names.indexOf(name) / names.length) * 2 * Math.PI - Math.PI / 2;
    return [250 + 185 * Math.cos(angle), 165 + 125 * Math.sin(angle)];
  };
  const now = session.state.phase;
  const taken = new Set(session.events.filter((one) => one.name === "STATE_CHANGED").map((one) => `${one.payload.from_phase} ${one.payload.to_phase}`));
  const led = new Set(events.filter((one) => one.name === "STATE_CHANGED").map((one) => `${one.payload.from_phase} ${one.payload.to_phase}`));
  const arrows = facts.edges.filter(([from, after]) => from !== after).map(([from, after]) => {
    const [[a, b], [c, d]] = [place(from), place(after)];
    const [dx, dy] = [c - a, d - b];
    const long = Math.hypot(dx, dy);
    const [mx, my] = [(a + c) / 2 - (dy / long) * 22, (b + d) / 2 + (dx / long) * 22];
    const [ux, uy] = [c - mx, d - my]; // the tip touches the box of the phase
    const cut = 1 - Math.min(58 / Math.max(1, Math.abs(ux)), 24 / Math.max(1, Math.abs(uy)), 0.9);
    const [ex, ey] = [mx + ux * cut, my + uy * cut];
    const way = `${from} ${after}`;
    return { way, d: `M${a} ${b} Q${mx} ${my} ${ex} ${ey}`, tip: tip(ex, ey, Math.atan2(ey - my, ex - mx)) };
  });
  const look = (way) => (led.has(way) ? ["var(--bad)", 3, 1] : taken.has(way) ? ["var(--text)", 1.5, 0.8] : ["var(--faint)", 1, 0.3]);
  return html`<svg class="diagram" viewBox="0 0 500 330" role="img" aria-label=${`The session is in ${now}. It can be in ${names.join(", ")}.`}>
      ${arrows.map(({ way, d, tip: head }) => {
        const [colour, width, opacity] = look(way);
        return html`<g stroke=${colour} fill="none" stroke-width=${width} opacity=${opacity}><path d=${d} /><path d=${head} fill=${colour} /></g>`;
      })}
      ${names.map((name) => {
        const [x, y] = place(name);
        const isNow = name === now;
        return html`<g data-phase=${name} data-lit=${isNow ? "yes" : "no"}><rect x=${x - 48} y=${y - 15} width="96" height="30" rx="15"
          fill=${isNow ? `var(--phase-${name})` : "var(--panel)"} stroke=${isNow ? "var(--text)" : "var(--faint)"} stroke-width=${isNow ? 2 : 1} />
          <text x=${x} y=${y} fill=${isNow ? `var(--on-${name}, var(--on-bar))` : "var(--text)"}>${name}</text></g>`;
      })}
    </svg>
    <p class="faint">Dark arrows: changes of this session. ${led.size ? `This step: ${[...led].map((way) => way.replace(" ", " → ")).join(", ")}.` : "This step changes no phase."}</p>`;
}

function tip(x, y, angle) {
  const at = (turn, far) => `${x + far * Math.cos(angle + turn)} ${y + far * Math.sin(angle + turn)}`;
  return `M${at(0, 8)} L${at(2.4, 6)} L${at(-2.4, 6)} Z`;
}

/** Links, exports, and the lines that make a test of the session. */
export function Share({ session, version }) {
  const path = `/api/sessions/${encodeURIComponent(session.key)}/export`;
  const file = (words, query) => html`<a class="button" download href=${`${path}?${query}`}>${words}</a>`;
  const address = `${location.origin}${link(session.key, { v: version })}`;
  return html`<h3>Link to this step</h3>
    <div class="row"><input class="grow" readonly aria-label="Link to this step" value=${address} />
      <button onClick=${() => navigator.clipboard.writeText(address)}>Copy</button></div>
    <h3>Export</h3>
    <div class="row">${file("Recording", "format=jsonl")}${file("Redacted recording", "format=jsonl&redact=1")}${file("Mermaid", "format=mermaid")}
      ${file("Perfetto", "format=perfetto")}${file("OTLP", "format=otlp")}</div>
    <h3>Make this a test</h3>
    <pre class="lines" tabindex="0">${session.commands.map((one) => `${visible(one)}\n`).join("")}</pre>
    <h3>Compare with another session</h3>
    <form class="row" action="/compare" onSubmit=${(event) => {
      event.preventDefault();
      const query = new URLSearchParams({ a: session.key, b: new FormData(event.target).get("b") });
      event.target.querySelector("a").href = `/compare?${query}`;
      event.target.querySelector("a").click();
    }}><input name="b" aria-label="The other session" placeholder="its id or file" required /><button>Compare</button><a hidden href="/compare"></a></form>`;
}
