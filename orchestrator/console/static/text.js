// Texts of conversations as text: nothing in them runs, hides or reorders the page. Also times and numbers.

import htm from "/static/vendor/htm-3.1.1.js";
import { Component, h, render } from "/static/vendor/preact-11.2.0.js";

export const html = htm.bind(h);
export { Component, render };

const HIDDEN = /[\p{Cc}\p{Cf}\p{Cs}\p{Cn}\p{Zl}\p{Zp}]/gu;
const IN_A_WORD = /[^\p{ASCII}\p{Cf}\p{Z}]/u;

/** The text with controls, bidirectional marks and other invisible characters as their codes; as safe_text.py does. */
export function visible(text) {
  const whole = String(text ?? "");
  return whole.replace(HIDDEN, (one, at) => {
    if (one === "\n" || one === "\t" || one === "\r") return " ";
    const isJoiner = one === "\u200c" || one === "\u200d";
    if (isJoiner && IN_A_WORD.test(whole.slice(0, at).slice(-2)) && IN_A_WORD.test(whole.slice(at + 1, at + 3))) return one;
    return [...one].map((part) => `\\u${part.codePointAt(0).toString(16).padStart(4, "0")}`).join("");
  });
}

/** A text from outside, isolated: its direction changes nothing around it. */
export const Said = ({ of }) => html`<bdi>${visible(of)}</bdi>`;

export const seconds = (us) => `${(us / 1e6).toFixed(3)} s`;
export const ms = (us) => (us === null || us === undefined ? "–" : `${Math.round(us / 1000).toLocaleString("en")} ms`);

/** A length of time as people say it. */
export function length(us) {
  const s = us / 1e6;
  return s < 60 ? `${s.toFixed(1)} s` : `${Math.floor(s / 60)} min ${Math.round(s % 60)} s`;
}

/** `1 turn`, `2 turns`. */
export const counted = (number, what) => `${number} ${what}${number === 1 ? "" : "s"}`;

/** A moment in UTC, as in the filters of the list. */
export const moment = (us) => (us ? new Date(us / 1000).toISOString().replace("T", " ").slice(0, 19) : "–");

/** An event on one line: `StartTimer(timer="endpoint")`, without ids that only machines need. */
export function oneLine(event, longest = 160) {
  const parts = Object.entries(event.payload ?? {})
    .filter(([field]) => field !== "command_id" && field !== "policy")
    .map(([field, value]) => `${field}=${JSON.stringify(value)}`);
  const text = visible(`${event.name}(${parts.join(", ")})`);
  return text.length > longest ? `${text.slice(0, longest)}…` : text;
}

export const link = (key, more = {}) => {
  const query = new URLSearchParams(more).toString();
  return `/sessions/${encodeURIComponent(key)}${query ? `?${query}` : ""}`;
};
