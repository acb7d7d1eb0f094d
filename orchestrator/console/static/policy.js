// Fields of the policy to try, and the table of the decisions that change.

import { Component, Said, html } from "./text.js";

const COMMON = ["interruption.min_words", "interruption.min_speech_ms", "endpointing.complete_ms", "endpointing.incomplete_ms",
  "filler.delay_ms", "deadlines.answer_ms"];

/** `["interruption.min_words=2"]` as the server reads it. */
export function settingsOf(texts) {
  const found = {};
  for (const text of texts) {
    const [, part, field, value] = /^([^.=]+)\.([^=]+)=(.*)$/s.exec(text) ?? [];
    if (!part) throw new Error(`${text}: write PART.FIELD=VALUE, such as interruption.min_words=2`);
    found[part] ??= {};
    try {
      found[part][field] = JSON.parse(value);
    } catch {
      found[part][field] = value;
    }
  }
  return found;
}

/** Props: facts, settings (texts), policy (the recorded one), onTry(texts), isEager: try while a slider moves. */
export class Form extends Component {
  state = { name: this.props.settings[0]?.split("=")[0] ?? COMMON[0], value: null };

  get field() {
    return this.props.facts.policy.find((one) => `${one.part}.${one.field}` === this.state.name);
  }

  get value() {
    const { settings, policy } = this.props;
    const [name, ...rest] = (settings[0] ?? "").split("=");
    if (this.state.value !== null) return this.state.value;
    if (name === this.state.name && rest.length) return rest.join("=");
    const recorded = policy?.[this.field.part]?.[this.field.field];
    return String(recorded ?? this.field.default ?? "");
  }

  change(value, isFinal) {
    this.setState({ value });
    if (!this.props.isEager) return;
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.try(), isFinal ? 0 : 150);
  }

  try() {
    const rest = this.props.settings.filter((one) => !one.startsWith(`${this.state.name}=`) && one !== this.props.settings[0]);
    this.props.onTry([`${this.state.name}=${this.value}`, ...rest]);
  }

  render({ facts }) {
    const names = facts.policy.map((one) => `${one.part}.${one.field}`);
    const field = this.field ?? facts.policy[0];
    const others = names.filter((name) => !COMMON.includes(name));
    const options = (from) => from.map((name) => html`<option value=${name} selected=${name === this.state.name}>${name}</option>`);
    return html`<form class="row policy" onSubmit=${(event) => { event.preventDefault(); this.try(); }}>
      <label class="field">Policy number<select value=${this.state.name} name="field"
        onChange=${(event) => this.setState({ name: event.target.value, value: null })}>
        <optgroup label="Often tried">${options(COMMON.filter((name) => names.includes(name)))}</optgroup>
        <optgroup label="All others">${options(others)}</optgroup></select></label>
      <${Value} field=${field} value=${this.value} onChange=${(value, isFinal) => this.change(value, isFinal)} />
      <button class="primary" type="submit">Try it</button>
      <p class="faint grow">${field.description}</p>
    </form>`;
  }
}

function Value({ field, value, onChange }) {
  if (field.type === "boolean" || field.enum) {
    return html`<label class="field">Value<select name="value" value=${value} onChange=${(event) => onChange(event.target.value, true)}>
      ${(field.enum ?? ["true", "false"]).map((one) => html`<option selected=${one === value}>${one}</option>`)}</select></label>`;
  }
  if (field.type !== "integer") {
    return html`<label class="field">Value<input name="value" value=${value} onChange=${(event) => onChange(event.target.value, true)} /></label>`;
  }
  const most = Math.max(10, field.field.endsWith("_ms") ? 2 * Math.max(Number(value), Number(field.default), 500) : 2 * Number(value));
  const top = Math.min(field.maximum ?? most, (this.most = Math.max(this.most ?? 0, most)));
  const step = field.field.endsWith("_ms") ? 10 : 1;
  return html`<label class="field slider">Slider<input type="range" name="slider" min=${field.minimum ?? 0} max=${top} step=${step} value=${value}
      onInput=${(event) => onChange(event.target.value, false)} /></label>
    <label class="field">Value<input type="number" name="value" min=${field.minimum ?? 0} max=${field.maximum} value=${value}
      onChange=${(event) => onChange(event.target.value, true)} /></label>`;
}

/** The decisions that differ, with the wait for an answer: before and after. */
export function Table({ changes, waits, names = ["as it was", "as it would be"] }) {
  const rows = Object.entries(changes);
  const wait = (one) => (one === null || one === undefined ? "none" : `${one} ms`);
  return html`<table class="changes"><thead><tr><th>Decision</th><th class="number"><${Said} of=${names[0]} /></th><th class="number"><${Said} of=${names[1]} /></th></tr></thead><tbody>
    ${rows.map(([name, [was, is]]) => html`<tr><td><${Said} of=${name} /></td><td class="number">${was}</td><td class="number">${is}</td></tr>`)}
    ${rows.length === 0 && html`<tr><td>no decision changes</td><td></td><td></td></tr>`}
    ${waits && html`<tr><td>median wait for an answer</td><td class="number">${wait(waits[0])}</td><td class="number">${wait(waits[1])}</td></tr>`}
  </tbody></table>`;
}
