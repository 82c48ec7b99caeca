// The canvas: a view of the mask, with zoom and pan, and the drawing tools.

import { NO_CLASS } from './mask.js';

export const TOOLS = [
  ['brush', 'Brush', 'b'], ['line', 'Line', 'l'], ['rectangle', 'Rectangle', 'r'],
  ['polygon', 'Polygon', 'p'], ['fill', 'Fill', 'f'], ['eraser', 'Eraser', 'e'],
  ['picker', 'Picker', 'i'], ['pan', 'Move', 'm'],
];

export class Board {
  // `on` has: changed() after each operation, picked(id), cursor(x, y).
  constructor(canvas, on) {
    this.canvas = canvas;
    this.context = canvas.getContext('2d');
    this.on = on;
    this.tool = 'brush';
    this.size = 4;
    this.classId = 1;
    this.colours = new Uint32Array(256);
    this.points = [];
    this.drag = null;
    this.cursor = null;
    canvas.addEventListener('pointerdown', (event) => this.press(event));
    canvas.addEventListener('pointermove', (event) => this.move(event));
    canvas.addEventListener('pointerup', (event) => this.release(event));
    canvas.addEventListener('pointercancel', (event) => this.release(event));
    canvas.addEventListener('dblclick', () => this.closePolygon());
    canvas.addEventListener('wheel', (event) => this.wheel(event), { passive: false });
    canvas.addEventListener('keydown', (event) => this.key(event));
    new ResizeObserver(() => this.draw()).observe(canvas);
  }

  setClasses(classes) {
    this.colours.fill(0);
    for (const { id, colour } of classes) {
      const [r, g, b] = [1, 3, 5].map((at) => parseInt(colour.slice(at, at + 2), 16));
      this.colours[id] = ((255 << 24) | (b << 16) | (g << 8) | r) >>> 0;
    }
  }

  setMask(mask) {
    this.mask = mask;
    this.points = [];
    this.buffer = new OffscreenCanvas(mask.width, mask.height);
    this.paint([0, 0, mask.width - 1, mask.height - 1]);
    this.fit();
  }

  fit() {
    const { clientWidth: width, clientHeight: height } = this.canvas;
    this.zoom = Math.min(width / this.mask.width, height / this.mask.height) * 0.96;
    this.left = (width - this.mask.width * this.zoom) / 2;
    this.top = (height - this.mask.height * this.zoom) / 2;
    this.draw();
  }

  zoomBy(factor, x = this.canvas.clientWidth / 2, y = this.canvas.clientHeight / 2) {
    const zoom = Math.min(64, Math.max(0.05, this.zoom * factor));
    this.left = x - ((x - this.left) * zoom) / this.zoom;
    this.top = y - ((y - this.top) * zoom) / this.zoom;
    this.zoom = zoom;
    this.draw();
  }

  // Copy an area of the mask to the buffer in the classes' colours.
  paint(box) {
    if (!box) return;
    const [left, top, right, bottom] = box, width = right - left + 1, height = bottom - top + 1;
    const data = new ImageData(width, height), pixels = new Uint32Array(data.data.buffer);
    for (let y = 0; y < height; y++) {
      const row = (top + y) * this.mask.width + left;
      for (let x = 0; x < width; x++) pixels[y * width + x] = this.colours[this.mask.ids[row + x]];
    }
    this.buffer.getContext('2d').putImageData(data, left, top);
  }

  refresh() {
    this.paint(this.mask.takeDirty());
    this.draw();
  }

  draw() {
    if (!this.mask) return;
    const ratio = window.devicePixelRatio || 1, { canvas, context } = this;
    const width = Math.round(canvas.clientWidth * ratio), height = Math.round(canvas.clientHeight * ratio);
    if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.clearRect(0, 0, width, height);
    context.imageSmoothingEnabled = false;
    context.setTransform(ratio * this.zoom, 0, 0, ratio * this.zoom, ratio * this.left, ratio * this.top);
    context.drawImage(this.buffer, 0, 0);
    this.drawGuides();
  }

  drawGuides() {
    const { context } = this;
    const path = this.drag && ['line', 'rectangle'].includes(this.tool) ? this.drag : null;
    context.lineWidth = 2 / this.zoom;
    context.strokeStyle = '#fff';
    context.shadowColor = '#000';
    context.shadowBlur = 3;
    context.beginPath();
    if (path && this.tool === 'line') {
      context.moveTo(path.x0 + 0.5, path.y0 + 0.5);
      context.lineTo(path.x + 0.5, path.y + 0.5);
    } else if (path) {
      const x = Math.min(path.x0, path.x), y = Math.min(path.y0, path.y);
      context.rect(x, y, Math.abs(path.x - path.x0) + 1, Math.abs(path.y - path.y0) + 1);
    }
    this.points.forEach(([x, y], n) => context[n ? 'lineTo' : 'moveTo'](x + 0.5, y + 0.5));
    if (this.cursor) context.rect(this.cursor[0], this.cursor[1], 1, 1);
    context.stroke();
    context.shadowBlur = 0;
  }

  place(event) {
    const box = this.canvas.getBoundingClientRect();
    return [
      Math.floor((event.clientX - box.left - this.left) / this.zoom),
      Math.floor((event.clientY - box.top - this.top) / this.zoom),
    ];
  }

  press(event) {
    if (!this.mask) return;
    this.canvas.focus({ preventScroll: true });
    this.canvas.setPointerCapture(event.pointerId);
    const [x, y] = this.place(event);
    this.cursor = null;
    if (event.button === 1 || this.tool === 'pan') {
      this.drag = { pan: true, x: event.clientX, y: event.clientY };
      event.preventDefault();
    } else if (event.button === 0) this.start(x, y);
  }

  // Begin the tool's operation at a pixel.
  start(x, y) {
    const { mask } = this;
    if (this.tool === 'picker') {
      const id = x >= 0 && y >= 0 && x < mask.width && y < mask.height && mask.ids[y * mask.width + x];
      if (id !== false && id !== NO_CLASS) this.on.picked(id);
    } else if (this.tool === 'polygon') {
      this.points.push([x, y]);
      this.draw();
    } else {
      mask.begin();
      this.drag = { x0: x, y0: y, x, y };
      if (this.tool === 'fill') {
        mask.fill(x, y, this.classId);
        this.finish();
      } else if (this.isBrush()) {
        mask.dot(x, y, this.size, this.brushId());
        this.refresh();
      }
    }
  }

  isBrush() { return this.tool === 'brush' || this.tool === 'eraser'; }

  brushId() { return this.tool === 'eraser' ? null : this.classId; }

  move(event) {
    if (!this.mask) return;
    const [x, y] = this.place(event);
    this.on.cursor(x, y);
    if (this.drag && this.drag.pan) {
      this.left += event.clientX - this.drag.x;
      this.top += event.clientY - this.drag.y;
      Object.assign(this.drag, { x: event.clientX, y: event.clientY });
      this.draw();
    } else if (this.drag) {
      for (const part of event.getCoalescedEvents?.() || [event]) this.drawTo(...this.place(part));
      this.drawTo(x, y);
    }
  }

  drawTo(x, y) {
    const { drag } = this;
    if (this.isBrush()) this.mask.line(drag.x, drag.y, x, y, this.size, this.brushId());
    Object.assign(drag, { x, y });
    this.refresh();
  }

  release() {
    if (!this.drag) return;
    if (this.drag.pan) this.drag = null;
    else this.finish();
  }

  // End the operation: it becomes one step of undo.
  finish() {
    const { drag, mask } = this;
    if (this.tool === 'line') mask.line(drag.x0, drag.y0, drag.x, drag.y, this.size, this.classId);
    if (this.tool === 'rectangle') mask.rectangle(drag.x0, drag.y0, drag.x, drag.y, this.classId);
    this.drag = null;
    this.refresh();
    if (mask.commit()) this.on.changed();
  }

  closePolygon() {
    if (this.points.length >= 3) {
      this.mask.begin();
      this.mask.polygon(this.points, this.classId);
      this.refresh();
      if (this.mask.commit()) this.on.changed();
    }
    this.points = [];
    this.draw();
  }

  undo(redo = false) {
    this.mask.begin();
    if (redo ? this.mask.redo() : this.mask.undo()) {
      this.refresh();
      this.on.changed();
    }
  }

  wheel(event) {
    if (!this.mask) return;
    event.preventDefault();
    const box = this.canvas.getBoundingClientRect();
    this.zoomBy(event.deltaY < 0 ? 1.25 : 0.8, event.clientX - box.left, event.clientY - box.top);
  }

  // Drawing without a pointer: arrows move a cursor, Space presses and releases the tool.
  key(event) {
    const step = event.shiftKey ? 10 : 1;
    const moves = { ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, -step], ArrowDown: [0, step] };
    if (event.key in moves) {
      const [x, y] = this.cursor || [this.mask.width >> 1, this.mask.height >> 1];
      const [dx, dy] = moves[event.key];
      this.cursor = [
        Math.min(this.mask.width - 1, Math.max(0, x + dx)),
        Math.min(this.mask.height - 1, Math.max(0, y + dy)),
      ];
      this.on.cursor(...this.cursor);
      if (this.drag && !this.drag.pan) this.drawTo(...this.cursor);
      else this.draw();
    } else if (event.key === ' ' && this.cursor) {
      if (this.drag) this.finish();
      else this.start(...this.cursor);
    } else if (event.key === 'Enter') this.closePolygon();
    else if (event.key === 'Escape') {
      this.points = [];
      this.draw();
    } else return;
    event.preventDefault();
  }
}
