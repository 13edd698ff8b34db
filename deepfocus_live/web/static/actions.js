// Has the daemon do things, and shows its answer.

import { byId, setText } from "./elements.js";

const ANSWER_STANDS_MS = 8000;

/** Ask in a dialog; resolves to whether it was confirmed. */
function confirmed(title, text, yes) {
  const dialog = byId("ask");
  setText("ask-title", title);
  setText("ask-text", text);
  setText("ask-yes", yes);
  return new Promise((resolve) => {
    byId("ask-yes").onclick = () => dialog.close("yes");
    byId("ask-no").onclick = () => dialog.close("");
    dialog.returnValue = "";
    dialog.onclose = () => resolve(dialog.returnValue === "yes");
    dialog.showModal();
    byId("ask-no").focus();
  });
}

export class Actions {
  constructor(onDone) {
    this.onDone = onDone;
    this.token = null;
    this.names = new Set();
  }

  /** Get this daemon's token; a new daemon has a new one. */
  async begin() {
    try {
      const answer = await fetch("/api/session");
      if (!answer.ok) return;
      const { token, actions } = await answer.json();
      this.token = token;
      this.names = new Set(actions);
      this.onDone();
    } catch {
      // The connection says so.
    }
  }

  can(name) {
    return this.names.has(name);
  }

  async post(name, body) {
    return fetch(`/api/actions/${name}`, {
      method: "POST",
      headers: { "Content-Type": "application/json", "X-Deepfocus-Token": this.token ?? "" },
      body: JSON.stringify(body),
    });
  }

  /** Do it; `ask` is {title, text, yes} where it must be confirmed first. */
  async run(name, body = {}, ask = null) {
    if (ask && !(await confirmed(ask.title, ask.text, ask.yes))) return;
    try {
      let answer = await this.post(name, body);
      if (answer.status === 403) {
        await this.begin();
        answer = await this.post(name, body);
      }
      const { ok = false, text, error } = await answer.json();
      this.say(text ?? error, ok);
    } catch {
      this.say("The daemon did not answer.", false);
    }
    this.onDone();
  }

  say(text, ok) {
    const box = byId("answer");
    box.hidden = false;
    box.dataset.ok = String(ok);
    box.textContent = text;
    clearTimeout(this.timer);
    this.timer = setTimeout(() => {
      box.hidden = true;
    }, ANSWER_STANDS_MS);
  }
}
