// The list of sessions: filters that live in the address, pages, and a policy tried on all that the filters select.

import { ask, askLines } from "./data.js";
import { Form, Table, settingsOf } from "./policy.js";
import { Component, Said, html, length, link, moment, ms } from "./text.js";

const FILTERS = ["q", "day", "state", "outcome", "slower_ms", "failed", "interrupted", "sort"];

/** Props: query (URLSearchParams), go(url), open(file), facts. */
export class List extends Component {
  state = { sessions: null, next: "", problem: "", unreadable: {}, chosen: [], tried: null };

  componentDidMount() {
    this.load();
  }

  componentDidUpdate({ query }) {
    if (String(query) !== String(this.props.query)) this.load();
  }

  async load(after = "") {
    const query = new URLSearchParams(this.props.query);
    query.delete("set");
    if (after) query.set("after", after);
    try {
      const { sessions, next, unreadable } = await ask(`/api/sessions?${query}`);
      const before = after ? this.state.sessions : [];
      this.setState({ sessions: [...before, ...sessions], next, unreadable, problem: "", ...(after ? {} : { tried: null }) });
    } catch (error) {
      this.setState({ problem: error.message });
    }
  }

  filter(name, value) {
    const query = new URLSearchParams(this.props.query);
    if (value) query.set(name, value);
    else query.delete(name);
    this.props.go(`/?${query}`);
  }

  choose(key, isChosen) {
    const others = this.state.chosen.filter((one) => one !== key);
    this.setState({ chosen: isChosen ? [...others.slice(-1), key] : others });
  }

  async try(settings) {
    const query = Object.fromEntries([...this.props.query].filter(([name]) => FILTERS.includes(name)));
    const done = [];
    const failed = []; // sessions that cannot be folded
    const show = (total, problem = "") => this.setState({ tried: { done, failed, total, problem } });
    show(null);
    try {
      for await (const line of askLines("/api/what-if", { settings: settingsOf(settings), query })) {
        if (line.problem && line.key === undefined) throw new Error(line.problem);
        if (line.sessions !== undefined) show(line);
        else {
          (line.problem ? failed : done).push(line);
          if ((done.length + failed.length) % 10 === 0) show(null);
        }
      }
    } catch (error) {
      show(null, error.message);
    }
  }

  render({ query, go, open, facts }, { sessions, next, problem, unreadable, chosen, tried }) {
    const [a, b] = chosen;
    return html`<main>
      <div class="row"><h1 class="grow">Sessions</h1>
        <label class="button">Open a recording<input type="file" class="visually-hidden" accept=".jsonl" onChange=${(event) => open(event.target.files[0])} /></label></div>
      <${Filters} query=${query} onFilter=${(name, value) => this.filter(name, value)} />
      <details class="panel" open=${query.has("set")}>
        <summary>Try another policy on these sessions</summary>
        <${Form} facts=${facts} settings=${query.getAll("set")} onTry=${(settings) => {
          const more = new URLSearchParams(query);
          more.delete("set");
          for (const one of settings) more.append("set", one);
          go(`/?${more}`, { replace: true });
          this.try(settings);
        }} />
        ${tried && html`<${Tried} ...${tried} settings=${query.getAll("set")} />`}
      </details>
      ${problem && html`<p class="panel problem" role="alert">${problem}</p>`}
      <section class="panel" aria-label="Sessions">
        ${sessions === null && !problem && html`<p class="faint">Loading…</p>`}
        ${sessions?.length === 0 && html`<p class="faint">No session matches. Drop a recording (*.jsonl) on this page to open it.</p>`}
        ${sessions?.length > 0 && html`<${Rows} ...${{ sessions, chosen, onChoose: (key, on) => this.choose(key, on) }} />`}
        <div class="row">
          ${next && html`<button onClick=${() => this.load(next)}>More sessions</button>`}
          ${b && html`<a class="button" href=${`/compare?${new URLSearchParams({ a, b })}`}>Compare the two</a>`}
        </div>
        ${Object.entries(unreadable).map(([name, why]) => html`<p class="bad"><${Said} of=${why || name} /></p>`)}
      </section>
    </main>`;
  }
}

function Filters({ query, onFilter }) {
  const value = (name) => query.get(name) ?? "";
  const field = (name, label, type, more = {}) => html`<label class="field">${label}
    <input type=${type} name=${name} value=${value(name)} ...${more} onChange=${(event) => onFilter(name, event.target.value)} /></label>`;
  const check = (name, label) => html`<label class="check"><input type="checkbox" name=${name} checked=${value(name) === "1"}
    onChange=${(event) => onFilter(name, event.target.checked ? "1" : "")} />${label}</label>`;
  const select = (name, label, options) => html`<label class="field">${label}
    <select name=${name} value=${value(name)} onChange=${(event) => onFilter(name, event.target.value)}>
      ${options.map(([one, words]) => html`<option value=${one} selected=${one === value(name)}>${words}</option>`)}
    </select></label>`;
  return html`<form class="panel row" role="search" aria-label="Filter the sessions" onSubmit=${(event) => event.preventDefault()}>
    ${field("q", "Session or file", "search")}
    ${field("day", "Day (UTC)", "date")}
    ${select("state", "State", [["", "any"], ["live", "live"], ["ended", "ended"], ["archived", "archived"]])}
    ${field("outcome", "Outcome", "text", { placeholder: "such as goodbye" })}
    ${field("slower_ms", "A turn slower than, ms", "number", { min: 0, step: 100 })}
    ${select("sort", "Order", [["", "newest first"], ["slowest", "slowest turn first"]])}
    ${check("failed", "with failures")}
    ${check("interrupted", "interrupted")}
  </form>`;
}

function Rows({ sessions, chosen, onChoose }) {
  return html`<table class="cards"><thead><tr>
      <th><span class="visually-hidden">Compare</span></th><th>Session</th><th>Opened (UTC)</th><th>Outcome</th><th class="number">Duration</th>
      <th class="number">Turns</th><th class="number">Slowest turn</th><th class="number">Interruptions</th><th class="number">Failures</th>
    </tr></thead><tbody>
    ${sessions.map((one) => html`<tr key=${one.key}>
      <td><input type="checkbox" aria-label=${`Compare ${one.key}`} checked=${chosen.includes(one.key)}
        onChange=${(event) => onChoose(one.key, event.target.checked)} /></td>
      <td class="whole"><a href=${link(one.key)}><${Said} of=${one.key} /></a>${" "}
        ${one.state === "live" && html`<span class="chip live">live</span>`}</td>
      <td>${moment(one.opened_us)}</td>
      <td><${Said} of=${one.outcome} /></td>
      <td class="number" data-name="lasted">${length(one.last_us - one.opened_us)}</td>
      <td class="number" data-name="turns">${one.turns}</td>
      <td class="number" data-name="slowest">${one.slowest_turn === null ? "–" : html`<a
        href=${link(one.key, { turn: one.slowest_turn, view: "turn" })} aria-label=${`Turn ${one.slowest_turn} of ${one.key}, ${ms(one.slowest_us)}`}>${ms(one.slowest_us)}</a>`}</td>
      <td class="number" data-name="interrupted">${one.interruptions}</td>
      <td class=${one.failures ? "number bad" : "number"} data-name="failures">${one.failures}</td>
    </tr>`)}
  </tbody></table>`;
}

function Tried({ done, failed, total, problem, settings }) {
  if (problem) return html`<p class="bad" role="alert">${problem}</p>`;
  if (!total) return html`<p role="status">${done.length} sessions tried…</p>`;
  const changed = done.filter((one) => Object.keys(one.decisions).length);
  const sum = (name) => done.reduce((all, one) => all + (one[name] ?? 0), 0);
  return html`<div role="status">
    <p>${sum("simulated")} of ${sum("results")} results of services and playback are simulated; ${sum("moved")} finals come at
      another time. ${sum("unjudged") ? html`<b>${sum("unjudged")} utterances would have been cut: their words are guessed.</b>` : ""}
      ${total.has_more ? " Only the first 500 sessions were tried." : ""}</p>
    <p><b>${changed.length} of ${total.sessions} sessions decide otherwise.</b></p>
    <${Table} changes=${total.changes} waits=${total.wait_ms} />
    ${failed.map((one) => html`<p class="bad" key=${one.key}><a href=${link(one.key)}><${Said} of=${one.key} /></a>${" "}
      is not in the table: <${Said} of=${one.problem} /></p>`)}
    ${changed.length > 0 && html`<h3>Sessions that decide otherwise</h3><ul>${changed.map((one) => html`<li><a
      href=${`${link(one.key, { view: "what-if" })}${settings.map((set) => `&set=${encodeURIComponent(set)}`).join("")}`}><${Said} of=${one.key} /></a>
      <span class="faint"> ${Object.entries(one.decisions).map(([name, [was, is]]) => `${name} ${was} → ${is}`).join(", ")}</span></li>`)}</ul>`}
  </div>`;
}
