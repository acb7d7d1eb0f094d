// Draws the page that the address names, keeps the address, and opens files that are dropped.

import { Compare } from "./compare.js";
import { ask } from "./data.js";
import { List } from "./list.js";
import { SessionPage } from "./session.js";
import { Component, html, link, render } from "./text.js";

class App extends Component {
  state = { url: new URL(location), facts: null, problem: "", isDropping: false };

  async componentDidMount() {
    addEventListener("popstate", () => this.setState({ url: new URL(location) }));
    document.addEventListener("click", (event) => this.clicked(event));
    for (const kind of ["dragover", "dragleave", "drop"]) document.addEventListener(kind, (event) => this.dropped(event));
    try {
      this.setState({ facts: await ask("/api/facts") });
    } catch (error) {
      this.setState({ problem: error.message });
    }
  }

  /** Goes to an address without loading the page anew. */
  go(address, { replace = false } = {}) {
    const url = new URL(address, location);
    history[replace ? "replaceState" : "pushState"](null, "", url);
    if (!replace) scrollTo(0, 0);
    this.setState({ url, problem: "" });
  }

  clicked(event) {
    const anchor = event.target.closest?.("a[href]");
    const isPlain = !(event.ctrlKey || event.metaKey || event.shiftKey || event.altKey || event.button);
    if (!anchor || !isPlain || anchor.hasAttribute("download") || anchor.origin !== location.origin) return;
    event.preventDefault();
    this.go(anchor.href);
  }

  async dropped(event) {
    if (!event.dataTransfer?.types.includes("Files")) return;
    event.preventDefault();
    this.setState({ isDropping: event.type === "dragover" });
    if (event.type !== "drop") return;
    await this.open(event.dataTransfer.files[0]);
  }

  /** Opens a recording: the console's own process reads it, keeps it in memory, and sends it nowhere. */
  async open(file) {
    if (!file) return;
    try {
      const { sessions } = await ask(`/api/dropped?${new URLSearchParams({ name: file.name })}`, file);
      this.go(link(sessions[0].key));
    } catch (error) {
      this.setState({ problem: error.message });
    }
  }

  render(_, { url, facts, problem, isDropping }) {
    const go = (address, options) => this.go(address, options);
    const query = url.searchParams;
    const key = /^\/sessions\/([^/]+)$/.exec(url.pathname)?.[1];
    let page = null;
    if (facts && key) page = html`<${SessionPage} key=${key} name=${decodeURIComponent(key)} ...${{ query, go, facts }} />`;
    else if (facts && url.pathname === "/compare") page = html`<${Compare} ...${{ query, facts }} />`;
    else if (facts) page = html`<${List} ...${{ query, go, open: (file) => this.open(file), facts }} />`;
    return html`${facts?.reads_words === false && html`<aside class="faint pad">Words are hidden: your token does not allow to read_words.</aside>`}
      ${problem && html`<p class="panel problem pad" role="alert">${problem}</p>`}
      ${isDropping && html`<div class="drop" aria-hidden="true">Drop the recording to open it. It stays on this machine.</div>`}${page}`;
  }
}

const root = document.getElementById("app");
root.replaceChildren();
render(html`<${App} />`, root);
