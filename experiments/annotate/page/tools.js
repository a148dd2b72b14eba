// What pointers do on the picture: brush, eraser, polygon, scribbles to grow from, and moving it.

const NEAR = 10; // CSS pixels from the first corner at which a polygon is closed

export class Tools {
  // `edit`: may() whether one may paint now, object() the id, commit(before), grow(strokes), size()
  constructor(view, labels, edit) {
    Object.assign(this, { view, labels, edit, tool: "brush", beside: false, corners: [], strokes: null, cursor: null });
    this.pointers = new Map();
    this.clear();
    view.draft = (context, pixel) => this.draft(context, pixel);
    const { canvas } = view;
    canvas.addEventListener("pointerdown", (event) => this.down(event));
    canvas.addEventListener("pointermove", (event) => this.moved(event));
    for (const end of ["pointerup", "pointercancel"]) canvas.addEventListener(end, (event) => this.up(event));
    canvas.addEventListener("pointerleave", () => this.hover(null));
    canvas.addEventListener("contextmenu", (event) => event.preventDefault());
    canvas.addEventListener("dblclick", () => this.close());
  }

  choose(tool) {
    this.tool = tool;
    this.view.canvas.style.cursor = tool === "hand" ? "grab" : "crosshair";
    this.clear();
  }

  // Forget a polygon that is not closed, and scribbles.
  clear() {
    this.corners = [];
    this.strokes = { inside: [], outside: [] };
    this.view.draw();
  }

  down(event) {
    const { canvas } = this.view;
    canvas.focus();
    canvas.setPointerCapture(event.pointerId);
    this.pointers.set(event.pointerId, event);
    if (this.pointers.size === 2 && this.before) this.cancel(); // two fingers move and enlarge
    if (this.pointers.size > 1 || event.button > 0 || this.tool === "hand") return;
    if (!this.edit.may()) return;
    const point = this.view.place(event.offsetX, event.offsetY);
    if (this.tool === "polygon") return this.corner(point);
    this.before = this.labels.ids.slice();
    this.last = point;
    if (this.tool === "grow") {
      this.stroke = [[point.x, point.y]];
      this.strokes[this.beside || event.altKey ? "outside" : "inside"].push(this.stroke);
    } else this.dab(point);
    this.view.draw();
  }

  moved(event) {
    const known = this.pointers.get(event.pointerId);
    if (known && this.pointers.size === 2) this.pinch(event);
    else if (known && !this.before && (known.button > 0 || this.tool === "hand"))
      this.view.move(event.offsetX - known.offsetX, event.offsetY - known.offsetY);
    else if (this.before)
      for (const part of event.getCoalescedEvents?.().length ? event.getCoalescedEvents() : [event])
        this.dab(this.view.place(part.offsetX, part.offsetY));
    if (known) this.pointers.set(event.pointerId, Object.assign(copy(event), { button: known.button }));
    this.hover(this.view.place(event.offsetX, event.offsetY));
  }

  up(event) {
    this.pointers.delete(event.pointerId);
    if (!this.before) return;
    const { before } = this;
    this.before = null;
    if (this.tool === "grow") this.edit.grow(this.strokes);
    else this.edit.commit(before);
  }

  dab(point) {
    if (this.tool === "grow") this.stroke.push([point.x, point.y]);
    else this.labels.line(this.last, point, this.edit.size() / 2, this.tool === "eraser" ? 0 : this.edit.object());
    this.last = point;
    this.view.draw();
  }

  cancel() {
    this.labels.set(this.before);
    this.before = null;
    this.clear();
  }

  pinch(event) {
    const [other] = [...this.pointers].filter(([id]) => id !== event.pointerId).map(([, value]) => value);
    const known = this.pointers.get(event.pointerId);
    const span = (a) => Math.hypot(a.offsetX - other.offsetX, a.offsetY - other.offsetY);
    const x = (event.offsetX + other.offsetX) / 2, y = (event.offsetY + other.offsetY) / 2;
    this.view.zoom(span(event) / Math.max(1, span(known)), x, y);
    this.view.move((event.offsetX - known.offsetX) / 2, (event.offsetY - known.offsetY) / 2);
  }

  corner(point) {
    const [first] = this.corners;
    if (first && Math.hypot(point.x - first.x, point.y - first.y) * this.view.scale < NEAR && this.corners.length > 2)
      return this.close();
    this.corners.push(point);
    this.view.draw();
  }

  // Fill the polygon.
  close() {
    if (this.corners.length > 2 && this.edit.may()) {
      const before = this.labels.ids.slice();
      this.labels.polygon(this.corners, this.edit.object());
      this.edit.commit(before);
    }
    this.corners = [];
    this.view.draw();
  }

  hover(point) {
    this.cursor = point;
    this.view.draw();
  }

  draft(context, pixel) {
    context.lineWidth = 1.5 * pixel;
    context.lineJoin = context.lineCap = "round";
    for (const [side, colour] of [["inside", "#7dff9a"], ["outside", "#ff7d7d"]])
      for (const stroke of this.strokes[side]) {
        context.strokeStyle = colour;
        context.lineWidth = Math.max(2 * pixel, this.edit.size() / 3);
        trace(context, stroke);
      }
    context.lineWidth = 1.5 * pixel;
    if (this.corners.length) {
      context.strokeStyle = "#fff";
      trace(context, [...this.corners, this.cursor ?? this.corners[0]].map(({ x, y }) => [x, y]));
      context.strokeRect(this.corners[0].x - 4 * pixel, this.corners[0].y - 4 * pixel, 8 * pixel, 8 * pixel);
    }
    if (this.cursor && ["brush", "eraser", "grow"].includes(this.tool)) {
      const radius = this.edit.size() / (this.tool === "grow" ? 6 : 2);
      for (const [colour, more] of [["#000", pixel], ["#fff", 0]]) {
        context.strokeStyle = colour;
        context.beginPath();
        context.arc(this.cursor.x, this.cursor.y, radius + more, 0, 2 * Math.PI);
        context.stroke();
      }
    }
  }
}

const copy = ({ offsetX, offsetY, pointerId }) => ({ offsetX, offsetY, pointerId });

function trace(context, points) {
  context.beginPath();
  for (const [x, y] of points) context.lineTo(x, y);
  if (points.length === 1) context.lineTo(points[0][0] + 0.01, points[0][1]);
  context.stroke();
}
