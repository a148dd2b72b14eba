// Which frame is shown: the newest that was asked for, however fast one scrubs.

import * as api from "./api.js";

const NEAR = 3; // frames: who goes no farther is about to go on

export class Player {
  // `shown(t)` is called with every frame that is on the canvas, `failed(error)` where one cannot be
  constructor({ view, labels, frames, saver, seconds, shown, failed }) {
    Object.assign(this, { view, labels, frames, saver, seconds, shown, failed });
    this.t = -1; // the frame that is shown
    this.wanted = 0;
    this.loading = null;
    this.whole = false; // whether picture and masks are those of this frame
    this.playing = 0;
  }

  get ready() {
    return !this.loading && this.whole && this.t === this.wanted;
  }

  // Show a frame; resolves when the one asked for last is there.
  go(t, again = false) {
    const step = Math.abs(t - this.wanted) > NEAR ? 0 : Math.sign(t - this.wanted);
    this.wanted = Math.max(0, Math.min(this.frames.count - 1, t));
    this.stale ||= again;
    this.loading ??= this.load(step).finally(() => (this.loading = null));
    return this.loading;
  }

  async load(step) {
    while (this.t !== this.wanted || this.stale) {
      const t = this.wanted;
      this.stale = false;
      try {
        const picture = this.frames.get(t);
        const waiting = this.saver.pending.get(t);
        const [frame, ids] = await Promise.all([picture, waiting ?? api.labels(t)]);
        this.view.frame = frame;
        this.labels.set(ids);
        this.whole = true;
      } catch (error) {
        this.view.frame = null;
        this.labels.set(new Uint8Array(this.labels.ids.length));
        this.whole = false;
        this.failed(error);
      }
      this.t = t;
      this.view.draw();
      this.shown(t);
    }
    if (step) this.frames.ahead(this.t, step);
  }

  async play() {
    const run = (this.playing = performance.now());
    for (let t = this.wanted; this.playing === run && t < this.frames.count - 1; t++) {
      const due = performance.now() + 1000 * (this.seconds[t + 1] - this.seconds[t]);
      await this.go(t + 1);
      await new Promise((resume) => setTimeout(resume, Math.max(0, due - performance.now())));
    }
    if (this.playing === run) this.playing = 0;
  }

  pause() {
    this.playing = 0;
  }
}
