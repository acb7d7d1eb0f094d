// What if the policy had been another: both traces, the decisions that differ, and how much of it is simulated.

import { Beside } from "./beside.js";
import { ask } from "./data.js";
import { Form, settingsOf } from "./policy.js";
import { Component, html } from "./text.js";

/** Props: session, facts, settings (texts from the address), write(texts). */
export class WhatIf extends Component {
  state = { found: null, problem: "", isBusy: false };

  componentDidMount() {
    if (this.props.settings.length) this.try(this.props.settings);
  }

  async try(settings) {
    this.props.write(settings);
    const asked = (this.asked = settings.join(" "));
    this.setState({ isBusy: true });
    try {
      const body = { settings: settingsOf(settings) };
      const found = await ask(`/api/sessions/${encodeURIComponent(this.props.session.key)}/what-if`, body);
      if (asked === this.asked) this.setState({ found, problem: "", isBusy: false });
    } catch (error) {
      if (asked === this.asked) this.setState({ found: null, problem: error.message, isBusy: false });
    }
  }

  render({ session, facts, settings }, { found, problem, isBusy }) {
    return html`<p>The user's words and times stay as recorded; the agent decides again under another policy.</p>
      <${Form} facts=${facts} settings=${settings} policy=${session.policy} isEager onTry=${(texts) => this.try(texts)} />
      ${settings.length > 0 && html`<p class="mono faint long">orch replay SOURCE ${settings.map((one) => `--set ${one}`).join(" ")}</p>`}
      ${problem && html`<p class="bad" role="alert">${problem}</p>`}
      <div role="status" aria-busy=${isBusy ? "true" : "false"}>${found && html`<${Judged} report=${found.report.recordings[0]} />`}</div>
      ${found && html`<${Beside} ...${found} facts=${facts} names=${["As it was", "As it would be"]} />`}`;
  }
}

/** What the comparison can and cannot judge, before its table. */
function Judged({ report }) {
  const { results, simulated, moved = 0, unjudged = 0, decisions } = report;
  const changes = Object.keys(decisions).length;
  return html`<p>${changes ? html`<b>${changes === 1 ? "One kind of decision changes" : `${changes} kinds of decisions change`}.</b>` : html`<b>No decision changes.</b>`}
    ${" "}${simulated} of ${results} results of services and playback are simulated, the others are as recorded.
    ${moved ? ` ${moved === 1 ? "One final comes" : `${moved} finals come`} at another time, by the recogniser's recorded delay after the endpoint.` : ""}
    ${unjudged ? html` <span class="bad">${unjudged} utterances would have been cut: their words are guessed, and decisions after them cannot be judged.</span>` : ""}</p>`;
}
