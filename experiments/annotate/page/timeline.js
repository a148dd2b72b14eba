// Where each object is, is lost or uncertain, and where it was given; a click goes there.

import { repaint } from "./repaint.js";

const ROW = 14;
const UNSURE = 0.7; // confidence below which an object counts as uncertain

export class Timeline {
  constructor(canvas, labels, count, go) {
    Object.assign(this, { canvas, labels, count, frames: [], at: 0, ids: [1], old: () => false });
    this.context = canvas.getContext("2d");
    this.draw = repaint(() => this.paint());
    new ResizeObserver(() => this.draw()).observe(canvas);
    const seek = (event) => {
      const t = Math.floor((event.offsetX / canvas.clientWidth) * count);
      go(Math.max(0, Math.min(count - 1, t)));
    };
    canvas.addEventListener("pointerdown", (event) => {
      canvas.setPointerCapture(event.pointerId);
      seek(event);
    });
    canvas.addEventListener("pointermove", (event) => event.buttons && seek(event));
  }

  paint() {
    const { canvas, context, count } = this, ratio = window.devicePixelRatio || 1;
    const rows = Math.min(8, this.ids.length), width = canvas.clientWidth, height = Math.max(1, rows) * ROW;
    if (canvas.style.height !== `${height}px`) canvas.style.height = `${height}px`;
    canvas.width = Math.round(width * ratio);
    canvas.height = Math.round(height * ratio);
    context.scale(ratio, ratio);
    context.fillStyle = "#2c2f36";
    context.fillRect(0, 0, width, height);
    const cell = width / count, columns = Math.min(count, Math.floor(width));
    for (let column = 0; column < columns; column++) {
      const first = Math.floor((column * count) / columns), end = Math.floor(((column + 1) * count) / columns);
      const left = first * cell, wide = Math.max(1, (end - first) * cell - (cell > 4 ? 1 : 0));
      this.ids.slice(0, rows).forEach((id, row) => this.cell(id, row, left, wide, first, end));
    }
    context.fillStyle = "#fff";
    context.fillRect((this.at + 0.5) * cell - 1, 0, 2, height);
  }

  // The worst of the frames of a column.
  cell(id, row, left, wide, first, end) {
    const { context } = this, top = row * ROW;
    let least = Infinity, lost = false, known = false, given = false, old = false;
    for (let t = first; t < end; t++) {
      const frame = this.frames[t];
      if (!frame) continue;
      given ||= frame.given.includes(id);
      const told = frame.objects[id];
      if (!frame.mask || !told) continue;
      known = true;
      old ||= this.old(t);
      if (told[0] === 0) lost = true;
      else least = Math.min(least, told[1]);
    }
    if (known && least < Infinity) {
      context.fillStyle = least < UNSURE ? "#e0a030" : this.labels.css(id);
      context.globalAlpha = least < UNSURE ? 1 : 0.35 + 0.65 * least;
      context.fillRect(left, top + 2, wide, ROW - 4);
      context.globalAlpha = 1;
    }
    if (lost) {
      context.fillStyle = "#ff5a4f";
      context.fillRect(left, top + ROW / 2 - 1.5, wide, 3);
    }
    if (old) {
      context.strokeStyle = "#17181b";
      context.lineWidth = 1.5;
      context.beginPath();
      for (let x = left - (left % 5); x < left + wide; x += 5) {
        context.moveTo(x, top + ROW - 2);
        context.lineTo(x + 4, top + 2);
      }
      context.stroke();
    }
    if (given) {
      const x = left + wide / 2, y = top + ROW / 2;
      context.fillStyle = "#fff";
      context.beginPath();
      [[0, -5], [5, 0], [0, 5], [-5, 0]].forEach(([dx, dy]) => context.lineTo(x + dx, y + dy));
      context.fill();
    }
  }
}
