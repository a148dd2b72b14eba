// Every edit goes to the disk at once; of several of one frame that wait the newest.

import * as api from "./api.js";

const AGAIN = 3000; // milliseconds after which what could not be written is tried again

export class Saver {
  // `tell(text, wrong)` shows how it stands; `written()` is called when all is on disk
  constructor(tell, written) {
    Object.assign(this, { tell, written, pending: new Map(), busy: null });
    window.addEventListener("beforeunload", (event) => this.pending.size && event.preventDefault());
  }

  save(t, ids) {
    this.pending.set(t, ids);
    this.tell("saving …");
    this.flush();
  }

  // Resolves when nothing waits any more, or it cannot be written.
  flush() {
    this.busy ??= this.write().finally(() => (this.busy = null));
    return this.busy;
  }

  async write() {
    clearTimeout(this.timer);
    try {
      while (this.pending.size) {
        const [[t, ids]] = this.pending;
        await api.give(t, ids);
        if (this.pending.get(t) === ids) this.pending.delete(t);
      }
      this.tell("saved");
      this.written();
    } catch (error) {
      this.tell(`not saved: ${error.message}`, true);
      this.timer = setTimeout(() => this.flush(), AGAIN);
    }
  }
}
