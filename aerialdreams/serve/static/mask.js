// The mask: an integer buffer of class ids, what is drawn into it, and its undo history.

export const NO_CLASS = 255;
const MAX_UNDO = 100;

export class Mask {
  constructor(width, height, ids, original = null) {
    this.width = width;
    this.height = height;
    this.ids = ids;
    this.original = original || ids.slice(); // what the eraser brings back
    this.counts = new Uint32Array(256);
    for (const id of ids) this.counts[id] += 1;
    this.undone = [];
    this.done = [];
    this.begin();
  }

  // Start an operation: from here to `commit` is one step of undo.
  begin() {
    this.touched = new Map(); // index -> id before
    this.dirty = null;
  }

  put(x, y, id) {
    if (x < 0 || y < 0 || x >= this.width || y >= this.height) return;
    const index = y * this.width + x, before = this.ids[index];
    if (before === id) return;
    if (!this.touched.has(index)) this.touched.set(index, before);
    this.ids[index] = id;
    this.counts[before] -= 1;
    this.counts[id] += 1;
    this.grow(x, y);
  }

  grow(x, y) {
    const box = this.dirty || (this.dirty = [x, y, x, y]);
    if (x < box[0]) box[0] = x;
    if (y < box[1]) box[1] = y;
    if (x > box[2]) box[2] = x;
    if (y > box[3]) box[3] = y;
  }

  // The area that changed since the last call: [left, top, right, bottom], or null.
  takeDirty() {
    const box = this.dirty;
    this.dirty = null;
    return box;
  }

  commit() {
    if (this.touched.size) {
      const indices = Uint32Array.from(this.touched.keys());
      this.done.push({
        indices,
        before: Uint8Array.from(this.touched.values()),
        after: Uint8Array.from(indices, (index) => this.ids[index]),
      });
      if (this.done.length > MAX_UNDO) this.done.shift();
      this.undone = [];
    }
    const changed = this.touched.size > 0;
    this.touched = new Map();
    return changed;
  }

  undo() { return this.step(this.done, this.undone, 'before'); }

  redo() { return this.step(this.undone, this.done, 'after'); }

  step(from, to, key) {
    const entry = from.pop();
    if (!entry) return false;
    entry.indices.forEach((index, n) => {
      const id = entry[key][n];
      this.counts[this.ids[index]] -= 1;
      this.counts[id] += 1;
      this.ids[index] = id;
      this.grow(index % this.width, Math.floor(index / this.width));
    });
    to.push(entry);
    return true;
  }

  // A disc of `size` pixels; `id` null brings back what was there at the start.
  dot(x, y, size, id) {
    const radius = size / 2, reach = Math.floor(radius);
    for (let dy = -reach; dy <= reach; dy++) {
      for (let dx = -reach; dx <= reach; dx++) {
        if (dx * dx + dy * dy < radius * radius || size <= 1) this.set(x + dx, y + dy, id);
      }
    }
  }

  set(x, y, id) {
    if (x < 0 || y < 0 || x >= this.width || y >= this.height) return;
    this.put(x, y, id === null ? this.original[y * this.width + x] : id);
  }

  line(x0, y0, x1, y1, size, id) {
    const steps = Math.max(Math.abs(x1 - x0), Math.abs(y1 - y0), 1);
    for (let n = 0; n <= steps; n++) {
      const x = Math.round(x0 + ((x1 - x0) * n) / steps);
      const y = Math.round(y0 + ((y1 - y0) * n) / steps);
      this.dot(x, y, size, id);
    }
  }

  rectangle(x0, y0, x1, y1, id) {
    for (let y = Math.min(y0, y1); y <= Math.max(y0, y1); y++) {
      for (let x = Math.min(x0, x1); x <= Math.max(x0, x1); x++) this.set(x, y, id);
    }
  }

  // Pixels whose centre is inside, by the even-odd rule.
  polygon(points, id) {
    const ys = points.map((point) => point[1]);
    const top = Math.max(0, Math.min(...ys)), bottom = Math.min(this.height - 1, Math.max(...ys));
    for (let y = top; y <= bottom; y++) {
      const crossings = [];
      points.forEach(([ax, ay], n) => {
        const [bx, by] = points[(n + 1) % points.length];
        if ((ay <= y) !== (by <= y)) crossings.push(ax + ((y - ay) * (bx - ax)) / (by - ay));
      });
      crossings.sort((a, b) => a - b);
      for (let n = 0; n + 1 < crossings.length; n += 2) {
        for (let x = Math.ceil(crossings[n]); x <= crossings[n + 1]; x++) this.set(x, y, id);
      }
    }
  }

  fill(x, y, id) {
    if (x < 0 || y < 0 || x >= this.width || y >= this.height) return;
    const old = this.ids[y * this.width + x];
    if (old === id) return;
    const stack = [[x, y]];
    while (stack.length) {
      const [px, py] = stack.pop();
      const row = py * this.width;
      let left = px, right = px;
      if (this.ids[row + px] !== old) continue;
      while (left > 0 && this.ids[row + left - 1] === old) left -= 1;
      while (right < this.width - 1 && this.ids[row + right + 1] === old) right += 1;
      for (let n = left; n <= right; n++) this.put(n, py, id);
      for (const next of [py - 1, py + 1]) {
        if (next < 0 || next >= this.height) continue;
        for (let n = left; n <= right; n++) {
          const same = this.ids[next * this.width + n] === old;
          const first = n === left || this.ids[next * this.width + n - 1] !== old;
          if (same && first) stack.push([n, next]);
        }
      }
    }
  }

  differs(other) {
    return other.length !== this.ids.length || this.ids.some((id, n) => id !== other[n]);
  }
}
