// Two sessions beside each other.

import { Beside } from "./beside.js";
import { ask } from "./data.js";
import { Component, Said, html, link } from "./text.js";

/** Props: query with a and b, facts. */
export class Compare extends Component {
  state = { found: null, problem: "" };

  componentDidMount() {
    this.load();
  }

  componentDidUpdate({ query }) {
    if (String(query) !== String(this.props.query)) this.load();
  }

  async load() {
    try {
      this.setState({ found: await ask(`/api/compare?${this.props.query}`), problem: "" });
    } catch (error) {
      this.setState({ found: null, problem: error.message });
    }
  }

  render({ query, facts }, { found, problem }) {
    const [a, b] = [query.get("a") ?? "", query.get("b") ?? ""];
    return html`<main><h1>Two sessions</h1>
      <p><a href=${link(a)}><${Said} of=${a} /></a> and <a href=${link(b)}><${Said} of=${b} /></a></p>
      ${problem && html`<p class="panel problem" role="alert">${problem}</p>`}
      ${found && html`<section class="panel"><h2>What differs</h2><${Beside} ...${found} facts=${facts} names=${[a, b]} /></section>`}
      ${!found && !problem && html`<p class="faint" role="status">Loading…</p>`}
    </main>`;
  }
}
