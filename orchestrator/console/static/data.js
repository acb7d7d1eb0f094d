// Asks the server, and holds the page of one session: its steps, and the state at any of them without asking again.

/** The JSON of an address; throws Error with the server's sentence. */
export async function ask(path, body) {
  const options = body === undefined ? {} : { method: "POST", body: body instanceof Blob ? body : JSON.stringify(body) };
  let answer;
  try {
    answer = await fetch(path, options);
  } catch {
    throw new Error("The console does not answer. Is orch console still running?");
  }
  if (answer.ok) return answer.json();
  let problem = `${answer.status} ${answer.statusText}`;
  try {
    problem = (await answer.json()).problem;
  } catch {
    // not one of our answers: the status says it
  }
  throw new Error(problem);
}

/** Lines of JSON as they arrive. */
export async function* askLines(path, body) {
  const answer = await fetch(path, { method: "POST", body: JSON.stringify(body) });
  if (!answer.ok) throw new Error((await answer.json()).problem);
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    for (const line of lines) yield JSON.parse(line);
  }
}

/** Applies operations of changes.py to a value, and returns what each replaced: [{path, old, now}]. */
export function apply(root, operations) {
  const seen = [];
  for (const [kind, path, ...rest] of operations) {
    const key = path.at(-1);
    const holder = path.slice(0, -1).reduce((at, step) => at[step], root);
    const old = holder[key];
    if (kind === "set") holder[key] = structuredClone(rest[0]); // later operations change it in place
    else if (kind === "del") delete holder[key];
    else {
      const [start, deleted, items] = structuredClone(rest);
      holder[key] = [...old.slice(0, start), ...items, ...old.slice(start + deleted)];
    }
    const same = seen.find((one) => one.name === path.join("."));
    if (same) same.now = holder[key];
    else seen.push({ name: path.join("."), old, now: holder[key] });
  }
  return seen;
}

const byKey = (rows, key) => new Map(rows.map((row) => [row[key], row]));

/** One session as the server sent it, and what live increments added. */
export class Session {
  constructor(page) {
    Object.assign(this, page);
    this.isLive = page.state === "live";
    this.revision = 0;
    this.at = -1; // the step whose state `state` is
    this.state = null;
    this.changed = [];
    this.events.forEach((event, index) => (event.index = index));
    this.#index();
  }

  get lastVersion() {
    return this.steps.at(-1).version;
  }

  /** The end of the session in microseconds after its opening. */
  get end() {
    return Math.max(this.events.at(-1).at, ...this.bars.slice(-40).map((bar) => bar.to ?? 0));
  }

  /** The step with this version, or the last one before it. */
  stepOf(version) {
    let low = 0;
    let high = this.steps.length - 1;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.steps[middle].version < version) low = middle + 1;
      else high = middle;
    }
    return low;
  }

  /** The events of a step: its input first. */
  eventsOf(step) {
    const first = step ? this.ends[step - 1] : 0;
    return this.events.slice(first, this.ends[step]);
  }

  event(version) {
    return this.versions.get(version);
  }

  effects(version) {
    return this.causes.get(version) ?? [];
  }

  /** The bars of a turn, those that are still open among them. */
  barsOf(turn) {
    if (this.grouped !== this.revision) {
      this.grouped = this.revision;
      this.byTurn = new Map();
      for (const bar of [...this.bars, ...this.open]) {
        if (this.byTurn.has(bar.turn)) this.byTurn.get(bar.turn).push(bar);
        else this.byTurn.set(bar.turn, [bar]);
      }
    }
    return this.byTurn.get(turn) ?? [];
  }

  /** What was heard of the answer of a playback bar. */
  heard(bar) {
    const id = bar.facts?.["orch.playback.id"];
    return this.said.find((one) => one.playback_id === id && one.speaker === "agent");
  }

  /** Milliseconds of a playback's audio that nobody heard. */
  restMs(bar) {
    const id = bar.facts?.["orch.playback.id"];
    const voice = this.bars.find((one) => one.facts?.["orch.playback.id"] === id && one.facts["orch.tts.audio_ms"]);
    const said = this.heard(bar);
    const letters = said.unheard.length / Math.max(1, said.heard_text.length);
    const total = voice?.facts["orch.tts.audio_ms"] ?? said.heard_ms * (1 + letters);
    return Math.max(0, total - said.heard_ms);
  }

  /** The step nearest to a time. */
  stepAt(us) {
    let low = 0;
    let high = this.steps.length - 1;
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if (this.timeOf(middle) > us) high = middle - 1;
      else low = middle;
    }
    if (low + 1 < this.steps.length && this.timeOf(low + 1) - us < us - this.timeOf(low)) return low + 1;
    return low;
  }

  timeOf(step) {
    return this.events[step ? this.ends[step - 1] : 0].at;
  }

  /** Goes to a step: `state` is then the state after it, `changed` what it changed. */
  goTo(step) {
    if (step === this.at) return;
    let from = this.at;
    if (this.state === null || step < from || step - from > 64) {
      for (from = step; !this.steps[from].whole; from--);
      this.state = structuredClone(this.steps[from].whole);
      this.changed = [];
      if (from === step) {
        const before = from ? this.#stateBefore(from) : structuredClone(this.blank);
        this.changed = apply(before, this.steps[from].changes);
      }
    }
    for (let next = from + 1; next <= step; next++) this.changed = apply(this.state, this.steps[next].changes);
    this.at = step;
  }

  #stateBefore(step) {
    let from = step - 1;
    for (; !this.steps[from].whole; from--);
    const state = structuredClone(this.steps[from].whole);
    for (let next = from + 1; next < step; next++) apply(state, this.steps[next].changes);
    return state;
  }

  /** Adds increments of a live session, a step each; the last one has the parts that each step replaces. */
  add(increments) {
    for (const more of increments) {
      for (const event of more.events) event.index = this.events.push(event) - 1;
      this.steps.push(...more.steps);
      this.bars.push(...more.bars);
      this.policy ??= more.policy;
    }
    const { open, summary } = increments.at(-1);
    Object.assign(this, { open, summary });
    for (const [part, key] of [["said", "version"], ["turns", "turn"]]) {
      this[part] = [...byKey([...this[part], ...increments.flatMap((more) => more[part])], key).values()];
    }
    this.revision += 1;
    this.#index();
  }

  #index() {
    this.versions ??= new Map();
    this.causes ??= new Map();
    this.ends ??= [];
    this.starts ??= new Map(); // turn → version of its first event
    for (let index = this.versions.size; index < this.events.length; index++) {
      const event = this.events[index];
      this.versions.set(event.version, event);
      if (event.name === "TURN_STARTED") this.starts.set(event.turn, event.version);
      if (event.cause) this.causes.set(event.cause, [...(this.causes.get(event.cause) ?? []), event]);
      if (event.version === this.steps[this.ends.length]?.version) this.ends.push(index + 1);
    }
  }
}

/** Follows a live session: adds each increment once, also over dropped connections. Returns a function that stops. */
export function follow(session, { onChange, onState }) {
  const source = new EventSource(`/api/sessions/${encodeURIComponent(session.key)}/live?after=${session.lastVersion}`);
  source.onopen = () => onState("live");
  source.onerror = () => onState(source.readyState === EventSource.CLOSED ? "refused" : "reconnecting");
  source.onmessage = (message) => {
    session.add(JSON.parse(message.data));
    onChange();
  };
  source.addEventListener("end", () => {
    source.close();
    onState("ended");
  });
  return () => source.close();
}
