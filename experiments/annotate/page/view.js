// The canvas: a frame with its masks, moved and enlarged, and what the tools draw on it.

import { repaint } from "./repaint.js";

export class View {
  constructor(canvas, labels) {
    Object.assign(this, { canvas, labels, frame: null, scale: 1, x: 0, y: 0, opacity: 0.55, draft: null });
    this.context = canvas.getContext("2d");
    this.draw = repaint(() => this.paint());
    this.fitted = true;
    new ResizeObserver(() => this.resize()).observe(canvas);
    canvas.addEventListener("wheel", (event) => {
      event.preventDefault();
      this.zoom(Math.exp(-event.deltaY * (event.deltaMode ? 0.05 : 0.0015)), event.offsetX, event.offsetY);
    }, { passive: false });
  }

  resize() {
    const ratio = window.devicePixelRatio || 1;
    this.canvas.width = Math.round(this.canvas.clientWidth * ratio);
    this.canvas.height = Math.round(this.canvas.clientHeight * ratio);
    if (this.fitted) this.fit();
    else this.draw();
  }

  fit() {
    const { clientWidth, clientHeight } = this.canvas, { width, height } = this.labels;
    this.scale = Math.min(clientWidth / width, clientHeight / height);
    this.x = (clientWidth - width * this.scale) / 2;
    this.y = (clientHeight - height * this.scale) / 2;
    this.fitted = true;
    this.draw();
  }

  zoom(factor, x = this.canvas.clientWidth / 2, y = this.canvas.clientHeight / 2) {
    const scale = Math.min(60, Math.max(0.05, this.scale * factor));
    this.x = x - (x - this.x) * (scale / this.scale);
    this.y = y - (y - this.y) * (scale / this.scale);
    this.scale = scale;
    this.fitted = false;
    this.draw();
  }

  move(dx, dy) {
    this.x += dx;
    this.y += dy;
    this.fitted = false;
    this.draw();
  }

  // From the canvas to the picture, in pixels of the video.
  place(x, y) {
    return { x: (x - this.x) / this.scale, y: (y - this.y) / this.scale };
  }

  paint() {
    const { context, canvas } = this, ratio = window.devicePixelRatio || 1;
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.clearRect(0, 0, canvas.width, canvas.height);
    context.setTransform(ratio * this.scale, 0, 0, ratio * this.scale, ratio * this.x, ratio * this.y);
    const { width, height } = this.labels;
    context.imageSmoothingEnabled = this.scale < 3;
    if (this.frame) context.drawImage(this.frame, 0, 0, width, height);
    context.imageSmoothingEnabled = false;
    context.globalAlpha = this.opacity;
    context.drawImage(this.labels.canvas, 0, 0);
    context.globalAlpha = 1;
    this.draft?.(context, 1 / this.scale);
    this.painted?.();
  }
}
