// Frames as they are asked for; a few are kept, and the next ones are fetched ahead.

import * as api from "./api.js";

const BYTES = 200e6; // of decoded pictures that are kept
const AHEAD = 3;

export class Frames {
  constructor(count, width, height) {
    this.count = count;
    this.kept = new Map();
    this.most = Math.max(2 * AHEAD, Math.floor(BYTES / (4 * width * height)));
  }

  get(t) {
    const found = this.kept.get(t) ?? api.frame(t);
    this.kept.delete(t); // the newest are last
    this.kept.set(t, found);
    found.catch(() => this.kept.delete(t));
    for (const [old, picture] of this.kept) {
      if (this.kept.size <= this.most) break;
      this.kept.delete(old);
      picture.then((bitmap) => setTimeout(() => bitmap.close(), 1000), () => {});
    }
    return found;
  }

  ahead(t, step) {
    for (let i = 1; i <= AHEAD; i++) if (t + i * step >= 0 && t + i * step < this.count) this.get(t + i * step);
  }
}
