// What the network learns: profile, model and whether to trust it, agreement with the
// rule over the stacks, the trainer, and the models there are.

import { byId, setHidden, setText } from "./elements.js";
import { writeAgreement } from "./agreement.js";
import { writeNamed } from "./health.js";
import { writeTrainer } from "./trainer.js";

function describeModel({ shipped, parent, gate }) {
  const parts = [];
  if (shipped) parts.push("shipped");
  if (parent) parts.push(`from ${parent}`);
  if (gate) parts.push(gate.text ?? (gate.passed ? "passed the gate" : "did not pass the gate"));
  return parts.join(" · ") || "not judged";
}

export class Learning {
  constructor(actions) {
    this.actions = actions;
    this.profiles = [];
    this.profile = null;
    this.model = null;
    this.ofRun = false;
    byId("retrain").addEventListener("click", () => this.retrain());
    byId("rollback").addEventListener("click", () => this.rollBack());
    byId("choose-profile").addEventListener("change", ({ target }) => {
      // Without the focus it goes back to what holds, should the answer be no.
      target.blur();
      this.chooseProfile(target.value);
    });
  }

  get current() {
    return this.profiles.find(({ name }) => name === this.profile) ?? this.profiles[0] ?? null;
  }

  async refresh() {
    try {
      const answer = await fetch("/api/models");
      if (answer.ok) this.profiles = (await answer.json()).profiles;
    } catch {
      return;
    }
    this.write();
  }

  follow(status, profile) {
    const changed = status.model !== this.model || profile !== this.profile;
    this.model = status.model;
    this.profile = profile ?? this.profile;
    const told = status.learning?.profiles?.find(({ name }) => name === this.profile);
    writeTrainer(status.learning, told);
    // Of the run in view where it is open; else what the daemon knows of the profile.
    if (!this.ofRun) writeAgreement((told?.agreement_series ?? []).map((iou) => ({ iou })));
    if (document.activeElement !== byId("choose-profile")) byId("choose-profile").value = status.profile_chosen ?? "";
    if (changed) this.refresh();
  }

  write() {
    const { current, actions } = this;
    writeNamed("profile", current?.name);
    byId("trust").dataset.state = current?.trust?.state ?? "unknown";
    setText("trust", [current?.trust?.text, current?.warning].filter(Boolean).join(". "));
    setHidden("retrain", !actions.can("retrain") || !current);
    setHidden("rollback", !actions.can("rollback") || !current?.can_roll_back);
    setHidden("models-box", !current);
    if (!current) return;
    byId("models").replaceChildren(...current.versions.map((version) => this.line(version)));
    this.writeProfiles();
  }

  line(version) {
    const item = document.createElement("li");
    const name = document.createElement("b");
    const about = document.createElement("small");
    name.textContent = version.name;
    about.textContent = describeModel(version);
    item.append(name, about);
    if (version.current) {
      item.append(Object.assign(document.createElement("em"), { textContent: "in use" }));
    } else if (this.actions.can("use-model")) {
      const use = Object.assign(document.createElement("button"), { type: "button", textContent: "Use" });
      use.setAttribute("aria-label", `Use ${version.name}`);
      use.addEventListener("click", () => this.use(version));
      item.append(use);
    }
    return item;
  }

  writeProfiles() {
    const select = byId("choose-profile");
    const names = this.profiles.map(({ name }) => name);
    setHidden("choose-profile-box", !this.actions.can("choose-profile") || names.length < 2);
    if (select.dataset.key === names.join()) return;
    select.dataset.key = names.join();
    const entries = [["", "as their programs say"], ...names.map((name) => [name, name])];
    select.replaceChildren(...entries.map(([value, text]) => Object.assign(document.createElement("option"), { value, textContent: text })));
  }

  retrain() {
    const profile = this.current.name;
    this.actions.run("retrain", { profile }, {
      title: "Learn now?",
      text: `Fine-tunes the model of profile ${profile} on its labelled stacks, beside the acquisition. The new model is used only if it passes the gate.`,
      yes: "Learn now",
    });
  }

  rollBack() {
    const { name: profile, current } = this.current;
    this.actions.run("rollback", { profile }, {
      title: "Back to the model before?",
      text: `${current} is no longer used for profile ${profile}; masks that were made stay as they are.`,
      yes: "Go back",
    });
  }

  use({ name, gate }) {
    const profile = this.current.name;
    const doubt = gate && !gate.passed ? " It did not pass the gate." : "";
    this.actions.run("use-model", { name, profile }, {
      title: `Use ${name}?`,
      text: `Slices of profile ${profile} are masked by it from now on.${doubt} You can go back.`,
      yes: "Use it",
    });
  }

  chooseProfile(name) {
    this.actions.run("choose-profile", { profile: name || null }, {
      title: "Another profile for runs to come?",
      text: name ? `Runs that begin from now on are of profile ${name}.` : "Runs that begin from now on are of the profile that their programs name.",
      yes: "Choose",
    });
  }

  /** The agreement of each stack of the run in view. */
  setAgreement(agreement) {
    this.ofRun = agreement.length > 0;
    if (this.ofRun) writeAgreement(agreement);
  }
}
