// The runs there are, as the daemon lists them, and the details of those that were looked at.

export class Runs {
  constructor(onChange) {
    this.onChange = onChange;
    this.list = [];
    this.details = new Map();
    this.asking = false;
  }

  async refresh() {
    if (this.asking) return;
    this.asking = true;
    try {
      const answer = await fetch("/api/runs");
      if (answer.ok) this.list = (await answer.json()).runs;
      this.onChange();
    } catch {
      // The connection says so.
    } finally {
      this.asking = false;
    }
  }

  find(id) {
    return this.details.get(id) ?? this.list.find((run) => run.id === id) ?? null;
  }

  /** One run with its curves; null if it cannot be had. */
  async read(id) {
    try {
      const answer = await fetch(`/api/run?${new URLSearchParams({ run: id })}`);
      if (!answer.ok) return null;
      const run = await answer.json();
      this.details.clear();
      this.details.set(id, run);
      return run;
    } catch {
      return null;
    }
  }
}
