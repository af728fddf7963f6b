// The surface of a map at a level, made in the browser and put into a mesh of k3d's scene (surface.py).
//
// k3d's own marching cubes works in 26 timed parts at 128^3 and merges vertices by strings; this takes a tenth of that.

// Naive surface nets (Gibson 1998): a vertex in each cell of eight voxels that the surface passes, at the mean of where
// it crosses the cell's edges; a quad about each edge it crosses. `field` is z, y, x; positions are x, y, z in voxels.
export function surfaceOf(field, [nz, ny, nx], level) {
  const row = nx, slab = nx * ny, f = new Float64Array(8);
  const at = new Int32Array(2 * slab); // the vertex of each cell, of this layer and the one before
  const positions = list(Float32Array), normals = list(Float32Array), indices = list(Uint32Array);
  const vertex = (cell) => at[cell % (2 * slab)];
  const quad = (a, b, c, d) => {
    indices.push(vertex(a), vertex(b), vertex(c));
    indices.push(vertex(a), vertex(c), vertex(d));
  };
  for (let z = 0; z < nz - 1; z++)
    for (let y = 0; y < ny - 1; y++) {
      let i = z * slab + y * row;
      let next = inside(field, i, row, slab, level);
      for (let x = 0; x < nx - 1; x++, i++) {
        const mask = next | ((next = inside(field, i + 1, row, slab, level)) << 1); // bit k: corner x + 2 y + 4 z
        if (mask === 0 || mask === 255) continue;
        for (let k = 0; k < 8; k++) f[k] = field[i + (k & 1) + (k & 2 ? row : 0) + (k & 4 ? slab : 0)] - level;
        at[i % (2 * slab)] = positions.length() / 3;
        addVertex(positions, normals, f, mask, x, y, z);
        const within = mask & 1;
        if (y && z && within !== ((mask >> 1) & 1))
          within ? quad(i, i - row, i - row - slab, i - slab) : quad(i, i - slab, i - row - slab, i - row);
        if (x && z && within !== ((mask >> 2) & 1))
          within ? quad(i, i - slab, i - slab - 1, i - 1) : quad(i, i - 1, i - slab - 1, i - slab);
        if (x && y && within !== ((mask >> 4) & 1))
          within ? quad(i, i - 1, i - 1 - row, i - row) : quad(i, i - row, i - 1 - row, i - 1);
      }
    }
  return { positions: positions.array(), normals: normals.array(), indices: indices.array() };
}

// Numbers of one type, added three at a time.
function list(Kind) {
  let numbers = new Kind(1 << 16), n = 0;
  return {
    push(a, b, c) {
      if (n + 3 > numbers.length) { const more = new Kind(2 * numbers.length); more.set(numbers); numbers = more; }
      numbers[n++] = a; numbers[n++] = b; numbers[n++] = c;
    },
    length: () => n,
    array: () => numbers.slice(0, n),
  };
}

// Which of the four voxels of a cell that share x are inside: bits 0, 2, 4, 6.
function inside(field, i, row, slab, level) {
  return (field[i] > level) | ((field[i + row] > level) << 2) | ((field[i + slab] > level) << 4) | ((field[i + row + slab] > level) << 6);
}

// f: the eight corners less the level. The normal points down the gradient, out of the density.
function addVertex(positions, normals, f, mask, x, y, z) {
  let sx = 0, sy = 0, sz = 0, crossings = 0;
  for (let axis = 1; axis < 8; axis *= 2)
    for (let k = 0; k < 8; k++) {
      if (k & axis || ((mask >> k) & 1) === ((mask >> (k | axis)) & 1)) continue;
      const part = f[k] / (f[k] - f[k | axis]);
      sx += axis === 1 ? part : k & 1;
      sy += axis === 2 ? part : (k >> 1) & 1;
      sz += axis === 4 ? part : k >> 2;
      crossings++;
    }
  positions.push(x + sx / crossings, y + sy / crossings, z + sz / crossings);
  const gx = f[0] + f[2] + f[4] + f[6] - f[1] - f[3] - f[5] - f[7];
  const gy = f[0] + f[1] + f[4] + f[5] - f[2] - f[3] - f[6] - f[7];
  const gz = f[0] + f[1] + f[2] + f[3] - f[4] - f[5] - f[6] - f[7];
  const length = Math.hypot(gx, gy, gz) || 1;
  normals.push(gx / length, gy / length, gz / length);
}

// Colours (r, g, b bytes) of vertices: the palette's entry that `paint`, a byte for each voxel, names at the nearest;
// its first where there is no paint.
export function coloursOf(positions, paint, palette, [, ny, nx]) {
  const colours = new Uint8Array(positions.length);
  for (let v = 0; v < positions.length; v += 3) {
    const x = Math.round(positions[v]), y = Math.round(positions[v + 1]), z = Math.round(positions[v + 2]);
    const entry = paint.length ? 3 * paint[(z * ny + y) * nx + x] : 0;
    for (let k = 0; k < 3; k++) colours[v + k] = palette[entry + k];
  }
  return colours;
}

function initialize({ model }) {
  let field, paint, palette, geometry = null, due = false;
  const bytes = (name) => { const view = model.get(name); return view.buffer.slice(view.byteOffset, view.byteOffset + view.byteLength); };
  const read = () => {
    field = new Float32Array(bytes("field"));
    paint = new Uint8Array(bytes("paint"));
    palette = new Uint8Array(bytes("palette"));
    soon();
  };
  const soon = () => { // once for each frame, however fast a slider moves
    if (!due) requestAnimationFrame(() => { due = false; geometry = null; show(); });
    due = true;
  };
  // In every view of the scene that there is now; a view that is opened later gets the surface within a moment.
  function show() {
    for (const plot of globalThis.__k3dWidgets?.plots ?? []) {
      const mesh = plot.K3DInstance?.getObjectById(model.get("mesh_id"));
      if (!mesh?.geometry || mesh.geometry === geometry) continue;
      geometry ??= made(mesh.geometry);
      if (mesh.geometry.getAttribute("color")) mesh.geometry.dispose();
      mesh.geometry = geometry;
      mesh.material.vertexColors = mesh.material.needsUpdate = true;
      plot.K3DInstance.render();
    }
  }
  function made(box) { // of three.js, whose classes are taken from the mesh that is there
    const shape = model.get("shape"), size = model.get("voxel_size"), Attribute = box.attributes.position.constructor;
    const { positions, normals, indices } = surfaceOf(field, shape, model.get("level"));
    const colours = coloursOf(positions, paint, palette, shape);
    for (let v = 0; v < positions.length; v++) positions[v] = (positions[v] - (shape[2 - (v % 3)] >> 1)) * size;
    const surface = new box.constructor();
    surface.setAttribute("position", new Attribute(positions, 3));
    surface.setAttribute("normal", new Attribute(normals, 3));
    surface.setAttribute("color", new Attribute(colours, 3, true));
    surface.setIndex(new Attribute(indices, 1));
    [surface.boundingBox, surface.boundingSphere] = [box.boundingBox, box.boundingSphere]; // those of the whole map
    return surface;
  }
  model.on("change:field", read);
  model.on("change:paint", read);
  model.on("change:level", soon);
  read();
  const look = setInterval(show, 300);
  return () => clearInterval(look);
}
export default { initialize };
