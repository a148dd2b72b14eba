// The ids of all pixels of a frame, their colours, and what paints them.

export class Labels {
  constructor(width, height, palette) {
    Object.assign(this, { width, height });
    this.ids = new Uint8Array(width * height);
    this.canvas = document.createElement("canvas");
    Object.assign(this.canvas, { width, height });
    this.context = this.canvas.getContext("2d");
    this.image = this.context.createImageData(width, height);
    this.pixels = new Uint32Array(this.image.data.buffer);
    this.colours = palette.map(bright);
    const packed = new DataView(new ArrayBuffer(4));
    this.table = Uint32Array.from(this.colours, ([r, g, b], id) => {
      [r, g, b, id ? 255 : 0].forEach((value, place) => packed.setUint8(place, value));
      return new Uint32Array(packed.buffer)[0];
    });
  }

  css(id) {
    return `rgb(${this.colours[id].join(" ")})`;
  }

  // Replace everything.
  set(ids) {
    this.ids.set(ids);
    this.colour({ x0: 0, y0: 0, x1: this.width, y1: this.height });
  }

  // Bring the picture up to date within a rectangle.
  colour({ x0, y0, x1, y1 }) {
    for (let y = y0; y < y1; y++)
      for (let i = y * this.width + x0, end = y * this.width + x1; i < end; i++) this.pixels[i] = this.table[this.ids[i]];
    if (x1 > x0 && y1 > y0) this.context.putImageData(this.image, 0, 0, x0, y0, x1 - x0, y1 - y0);
  }

  // All pixels whose centre is at most radius from the line between two points.
  line(from, to, radius, id) {
    const box = this.clipped(Math.min(from.x, to.x) - radius, Math.min(from.y, to.y) - radius,
      Math.max(from.x, to.x) + radius, Math.max(from.y, to.y) + radius);
    const dx = to.x - from.x, dy = to.y - from.y, length = dx * dx + dy * dy;
    for (let y = box.y0; y < box.y1; y++)
      for (let x = box.x0; x < box.x1; x++) {
        const px = x + 0.5 - from.x, py = y + 0.5 - from.y;
        const along = length ? Math.max(0, Math.min(1, (px * dx + py * dy) / length)) : 0;
        const ex = px - along * dx, ey = py - along * dy;
        if (ex * ex + ey * ey <= radius * radius) this.ids[y * this.width + x] = id;
      }
    this.colour(box);
  }

  polygon(points, id) {
    const xs = points.map((p) => p.x), ys = points.map((p) => p.y);
    const box = this.clipped(Math.min(...xs), Math.min(...ys), Math.max(...xs), Math.max(...ys));
    const width = box.x1 - box.x0, height = box.y1 - box.y0;
    if (width <= 0 || height <= 0) return;
    const context = new OffscreenCanvas(width, height).getContext("2d");
    context.beginPath();
    for (const { x, y } of points) context.lineTo(x - box.x0, y - box.y0);
    context.fill();
    const { data } = context.getImageData(0, 0, width, height);
    for (let y = 0; y < height; y++)
      for (let x = 0; x < width; x++)
        if (data[4 * (y * width + x) + 3] > 127) this.ids[(y + box.y0) * this.width + x + box.x0] = id;
    this.colour(box);
  }

  // What differs from earlier ids: a rectangle with its content before and after; null if nothing does.
  changes(before) {
    let x0 = this.width, y0 = this.height, x1 = 0, y1 = 0;
    for (let y = 0, i = 0; y < this.height; y++)
      for (let x = 0; x < this.width; x++, i++)
        if (this.ids[i] !== before[i]) {
          x0 = Math.min(x0, x);
          x1 = Math.max(x1, x + 1);
          y0 = Math.min(y0, y);
          y1 = y + 1;
        }
    if (x1 <= x0) return null;
    const box = { x0, y0, x1, y1 };
    return { box, before: cut(before, this.width, box), after: cut(this.ids, this.width, box) };
  }

  // Put the content of a rectangle back.
  paste({ x0, y0, x1, y1 }, content) {
    const width = x1 - x0;
    for (let y = y0; y < y1; y++)
      this.ids.set(content.subarray((y - y0) * width, (y - y0 + 1) * width), y * this.width + x0);
    this.colour({ x0, y0, x1, y1 });
  }

  clipped(x0, y0, x1, y1) {
    return {
      x0: Math.max(0, Math.floor(x0)),
      y0: Math.max(0, Math.floor(y0)),
      x1: Math.min(this.width, Math.ceil(x1)),
      y1: Math.min(this.height, Math.ceil(y1)),
    };
  }
}

function cut(ids, width, { x0, y0, x1, y1 }) {
  const content = new Uint8Array((x1 - x0) * (y1 - y0));
  for (let y = y0; y < y1; y++) content.set(ids.subarray(y * width + x0, y * width + x1), (y - y0) * (x1 - x0));
  return content;
}

// The colours of the palette are dark; over a picture they are seen when they are bright.
function bright([r, g, b]) {
  const most = Math.max(r, g, b, 1);
  return [r, g, b].map((value) => Math.round(40 + (value * 215) / most));
}
