// The slices of a case: unpacked when they are needed, the nearest first. The inverse of pack.py.
"use strict";

const BUSY_FROM = [1, 3, 6, 10, 16, 28, 60];
const CLASS_OF = Uint8Array.from({length: 61}, (_, busy) => BUSY_FROM.filter(from => busy >= from).length);
const ESCAPE = 255, LANES = 3;

async function inflate(bytes) {
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate-raw"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

function fromBase64(text) {
  const raw = atob(text), bytes = new Uint8Array(raw.length);
  for (let i = 0; i < raw.length; i++) bytes[i] = raw.charCodeAt(i);
  return bytes;
}

// Steps of HU into `out` from `start`; `sizes` are the lengths of the eight classes in `bytes`.
function unpredict(bytes, sizes, out, start, height, width) {
  const next = new Uint32Array(sizes.length);
  for (let c = 1; c < sizes.length; c++) next[c] = next[c - 1] + sizes[c - 1];
  let escapes = next[sizes.length - 1] + sizes[sizes.length - 1];
  let above = new Int32Array(width + 2), row = new Int32Array(width + 2);
  for (let y = 0, i = start; y < height; y++) {
    row[0] = above[1];
    for (let x = 1; x <= width; x++) {
      const left = row[x - 1], up = above[x], corner = above[x - 1];
      const low = left < up ? left : up, high = left < up ? up : left;
      let value = left + up - corner;
      value = value < low ? low : value > high ? high : value;
      const busy = Math.abs(left - corner) + Math.abs(up - corner) + Math.abs(up - above[x + 1]);
      let folded = bytes[next[CLASS_OF[busy < 60 ? busy : 60]]++];
      if (folded === ESCAPE) {
        folded = bytes[escapes] | bytes[escapes + 1] << 8;
        escapes += 2;
      }
      value += folded & 1 ? -(folded + 1 >> 1) : folded >> 1;
      row[x] = value;
      out[i++] = value;
    }
    row[width + 1] = row[width];
    [above, row] = [row, above];
  }
}

class Stack {
  constructor(id, count, height, width, Type) {
    this.texts = document.getElementById(id).textContent.trim().split("\n");
    Object.assign(this, {height, width, isLabels: Type === Uint8Array});
    this.area = height * width;
    this.data = new Type(count * this.area);
  }

  async unpack(slot) {
    const bytes = fromBase64(this.texts[slot]), start = slot * this.area;
    if (this.isLabels) {
      this.data.set(await inflate(bytes), start);
    } else {
      const sizes = new Uint32Array(bytes.buffer.slice(0, 32));
      unpredict(await inflate(bytes.subarray(32)), sizes, this.data, start, this.height, this.width);
    }
  }
}

// All volumes of a case. `onslice` is called whenever a slice of all of them is there.
class Store {
  constructor(number, facts, onslice) {
    const [depth, height, width] = facts.shape, count = facts.slices.length;
    Object.assign(this, {facts, onslice, depth, height, width, count});
    this.stacks = facts.volumes.map((_, i) => new Stack(`case${number}-volume${i}`, count, height, width, Uint16Array));
    this.labels = facts.labels.length ? new Stack(`case${number}-labels`, count, height, width, Uint8Array) : null;
    this.slots = Uint16Array.from({length: depth}, (_, z) => this.nearestSlot(z));
    this.state = new Uint8Array(count); // 0 packed, 1 at it, 2 there
    this.ready = 0;
    this.wanted = 0;
    this.open = true;
  }

  nearestSlot(z) {
    const away = this.facts.slices.map(held => Math.abs(held - z));
    return away.indexOf(Math.min(...away));
  }

  isReady(z) { return this.state[this.slots[z]] === 2; }

  want(z) { this.wanted = this.slots[z]; }

  load() { return Promise.all(Array.from({length: LANES}, () => this.lane())); }

  async lane() {
    while (this.open) {
      let slot = -1;
      for (let away = 0; away < this.count && slot < 0; away++) {
        slot = [this.wanted + away, this.wanted - away].find(s => this.state[s] === 0) ?? -1;
      }
      if (slot < 0) return;
      this.state[slot] = 1;
      for (const stack of this.labels ? [...this.stacks, this.labels] : this.stacks) await stack.unpack(slot);
      this.state[slot] = 2;
      this.ready++;
      this.onslice(slot);
      await new Promise(done => setTimeout(done)); // lets the browser draw and answer
    }
  }

  // HU of a voxel, or null while its slice is still packed.
  hu(volume, [z, y, x]) {
    if (!this.isReady(z)) return null;
    return PAGE.lowest + this.facts.step * this.stacks[volume].data[(this.slots[z] * this.height + y) * this.width + x];
  }

  label([z, y, x]) {
    return this.labels && this.isReady(z) ? this.labels.data[(this.slots[z] * this.height + y) * this.width + x] : 0;
  }

  // Rows and columns of a plane's pictures (axis 0 axial, 1 coronal, 2 sagittal).
  size(axis) { return [[this.height, this.width], [this.depth, this.width], [this.depth, this.height]][axis]; }

  // One slice of a stack; `into` is used where voxels must be gathered. Coronal and sagittal have the head on top.
  slice(stack, axis, index, into) {
    const {data, area, width, height} = stack;
    if (axis === 0) return data.subarray(this.slots[index] * area, (this.slots[index] + 1) * area);
    for (let row = 0; row < this.depth; row++) {
      const from = this.slots[this.depth - 1 - row] * area;
      if (axis === 1) {
        into.set(data.subarray(from + index * width, from + (index + 1) * width), row * width);
      } else {
        for (let y = 0, i = from + index, o = row * height; y < height; y++, i += width) into[o++] = data[i];
      }
    }
    return into;
  }

  // The voxel of a label that is nearest to its middle in a slice, as a position, or null where the label is not.
  middle(label, axis, index) {
    const [rows, columns] = this.size(axis);
    const voxels = this.slice(this.labels, axis, index, new Uint8Array(rows * columns));
    const found = [];
    for (let i = 0; i < voxels.length; i++) if (voxels[i] === label) found.push([Math.floor(i / columns), i % columns]);
    if (!found.length) return null;
    const [row, column] = [0, 1].map(k => found.reduce((sum, place) => sum + place[k], 0) / found.length);
    const away = ([r, c]) => (r - row) ** 2 + (c - column) ** 2;
    const [r, c] = found.reduce((best, place) => away(place) < away(best) ? place : best), head = this.depth - 1 - r;
    return [[index, r, c], [head, index, c], [head, c, index]][axis];
  }
}
