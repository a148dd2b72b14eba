// Undo and redo of edits, over all frames; the oldest go when they are too many.

const MOST = 200; // edits
const BYTES = 128e6;

export class History {
  constructor() {
    this.done = [];
    this.undone = [];
  }

  add(edit) {
    this.done.push(edit);
    this.undone = [];
    let bytes = this.done.reduce((sum, { before }) => sum + 2 * before.length, 0);
    while (this.done.length > MOST || (bytes > BYTES && this.done.length > 1)) bytes -= 2 * this.done.shift().before.length;
  }

  // The edit to take back, or to do again; it changes sides.
  undo() {
    const edit = this.done.pop();
    if (edit) this.undone.push(edit);
    return edit && { ...edit, content: edit.before };
  }

  redo() {
    const edit = this.undone.pop();
    if (edit) this.done.push(edit);
    return edit && { ...edit, content: edit.after };
  }
}
