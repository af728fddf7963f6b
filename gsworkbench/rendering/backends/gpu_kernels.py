"""Triton kernels behind gpu.py. Imported on first use only: importing it imports Triton.

What a Gaussian looks like on a grid is worked out once, in float64, by `place_in_images` or `place_in_volume`: its
bounds, by the rule of footprints.py, and its shape in samples from its own centre,

    value(dx, dy, dz) = norm 2^-(xx dx^2 + xy dx dy + yy dy^2 + (xz dx + yz dy + zz dz) dz).

`splat` and `gather` then visit the same samples: a program takes GAUSSIANS of them, LANES samples along x at a time,
row by row. An image is a volume of one plane (SOLID is false), whose shapes and moments are the first six of ten.
`chain_images` and `chain_volume` turn moments into gradients. Every row takes its exponentials anew: the recurrence of
the CPU kernels would save what special-function units do beside the multiply-adds.

Arrays are C-contiguous with Gaussians innermost: bounds (images, 4 or 6, n) int16, first sample and number along x, y
and z, all zero where no sample is reached; shapes (images, 6 or 10, n), norm, left, top, xx, xy, yy, front, xz, yz, zz;
moments likewise. Grids are one-dimensional, blocks of Gaussians fastest: neighbours in time share an image in cache.
"""

from __future__ import annotations

import triton
import triton.language as tl

LOG2_E_HALF = tl.constexpr(0.72134752044448170368)  # exp(-x / 2) = 2^(-LOG2_E_HALF x)
PER_LOG2_E_HALF = tl.constexpr(1.38629436111989061883)
PER_TWO_PI = tl.constexpr(0.15915494309189533577)  # (2 pi)^-1, and (2 pi)^(-3/2) for volumes
PER_TWO_PI_3_2 = tl.constexpr(0.06349363593424096963)
LARGEST_INVERSE = tl.constexpr(1e30)  # of a determinant: thinner is singular and has no density


@triton.jit
def _members(n, BLOCK: tl.constexpr):
    """The image a program is for, the Gaussians of its block, and which of these there are."""
    blocks = tl.cdiv(n, BLOCK)
    image = tl.program_id(0) // blocks
    i = (tl.program_id(0) % blocks) * BLOCK + tl.arange(0, BLOCK)
    return image.to(tl.int64), i, i < n


@triton.jit
def _symmetric(covariances, i, valid, j: tl.constexpr, k: tl.constexpr):
    """Component j, k of the symmetric part, in float64; 1 on the diagonal of Gaussians that are not there."""
    other = 1.0 if j == k else 0.0
    a = tl.load(covariances + 9 * i + (3 * j + k), mask=valid, other=other).to(tl.float64)
    b = tl.load(covariances + 9 * i + (3 * k + j), mask=valid, other=other).to(tl.float64)
    return (a + b) * 0.5


@triton.jit
def _reached(centre, variance, box, squared_cutoff):
    """footprints.py along one axis: first sample and one past the last, in float64. Clipped before it is rounded."""
    reach = tl.sqrt(squared_cutoff * tl.maximum(variance, 0.0))
    end = box.to(tl.float64)
    first = tl.ceil(tl.minimum(tl.maximum(centre - reach, 0.0), end))
    last = tl.floor(tl.minimum(tl.maximum(centre + reach, -1.0), end - 1.0)) + 1.0
    return first, last


@triton.jit
def _store_axis(bounds, n, i, valid, axis: tl.constexpr, first, last, seen, nan):
    """Bounds of one axis. A Gaussian that is not finite gets one sample, which it makes NaN."""
    count = tl.where(nan, 1.0, tl.where(seen, last - first, 0.0))
    tl.store(bounds + 2 * axis * n + i, tl.where(seen, first, 0.0).to(tl.int16), mask=valid)
    tl.store(bounds + (2 * axis + 1) * n + i, count.to(tl.int16), mask=valid)


@triton.jit
def _store_shape(shapes, n, i, valid, field: tl.constexpr, value, seen, nan):
    kept = tl.where(nan, float("nan"), tl.where(seen, value, 0.0))
    tl.store(shapes + field * n + i, kept.to(shapes.dtype.element_ty), mask=valid)


@triton.jit
def place_in_images(
    means, covariances, rotations, bounds, shapes,
    n, box, spacing: tl.float64, squared_cutoff: tl.float64, BLOCK: tl.constexpr,
):  # fmt: skip
    """Bounds and shapes of projections: centre A m, covariance A S A^T, in pixels."""
    image, i, valid = _members(n, BLOCK)
    bounds += image * 4 * n
    shapes += image * 6 * n
    rotations += image * 9
    ux = tl.load(rotations).to(tl.float64) / spacing
    uy = tl.load(rotations + 1).to(tl.float64) / spacing
    uz = tl.load(rotations + 2).to(tl.float64) / spacing
    vx = tl.load(rotations + 3).to(tl.float64) / spacing
    vy = tl.load(rotations + 4).to(tl.float64) / spacing
    vz = tl.load(rotations + 5).to(tl.float64) / spacing
    mx = tl.load(means + 3 * i, mask=valid, other=0.0).to(tl.float64)
    my = tl.load(means + 3 * i + 1, mask=valid, other=0.0).to(tl.float64)
    mz = tl.load(means + 3 * i + 2, mask=valid, other=0.0).to(tl.float64)
    sxx = _symmetric(covariances, i, valid, 0, 0)
    sxy = _symmetric(covariances, i, valid, 0, 1)
    sxz = _symmetric(covariances, i, valid, 0, 2)
    syy = _symmetric(covariances, i, valid, 1, 1)
    syz = _symmetric(covariances, i, valid, 1, 2)
    szz = _symmetric(covariances, i, valid, 2, 2)
    origin = (box // 2).to(tl.float64)
    x = ux * mx + uy * my + uz * mz + origin
    y = vx * mx + vy * my + vz * mz + origin
    # S u, then u^T S u, v^T S u; S v, then v^T S v.
    ax, ay, az = sxx * ux + sxy * uy + sxz * uz, sxy * ux + syy * uy + syz * uz, sxz * ux + syz * uy + szz * uz
    xx, xy = ux * ax + uy * ay + uz * az, vx * ax + vy * ay + vz * az
    ax, ay, az = sxx * vx + sxy * vy + sxz * vz, sxy * vx + syy * vy + syz * vz, sxz * vx + syz * vy + szz * vz
    yy = vx * ax + vy * ay + vz * az
    total = x + y + xx + xy + yy
    nan = total - total != 0.0
    determinant = xx * yy - xy * xy
    inverse = 1.0 / tl.where(determinant > 0.0, determinant, 1.0)
    x0, x1 = _reached(x, xx, box, squared_cutoff)
    y0, y1 = _reached(y, yy, box, squared_cutoff)
    seen = (x1 > x0) & (y1 > y0) & (determinant > 0.0) & (inverse < LARGEST_INVERSE)
    _store_axis(bounds, n, i, valid, 0, x0, x1, seen, nan)
    _store_axis(bounds, n, i, valid, 1, y0, y1, seen, nan)
    scale = tl.where(seen, inverse * LOG2_E_HALF, 0.0)
    norm = tl.sqrt(tl.where(seen, inverse, 0.0)) * PER_TWO_PI / (spacing * spacing)
    _store_shape(shapes, n, i, valid, 0, norm, seen, nan)
    _store_shape(shapes, n, i, valid, 1, x0 - x, seen, nan)
    _store_shape(shapes, n, i, valid, 2, y0 - y, seen, nan)
    _store_shape(shapes, n, i, valid, 3, scale * yy, seen, nan)
    _store_shape(shapes, n, i, valid, 4, -2.0 * scale * xy, seen, nan)
    _store_shape(shapes, n, i, valid, 5, scale * xx, seen, nan)


@triton.jit
def place_in_volume(
    means, covariances, bounds, shapes,
    n, box, spacing: tl.float64, squared_cutoff: tl.float64, BLOCK: tl.constexpr,
):  # fmt: skip
    """Bounds and shapes on the grid of a volume, in voxels."""
    _, i, valid = _members(n, BLOCK)
    origin = (box // 2).to(tl.float64)
    x = tl.load(means + 3 * i, mask=valid, other=0.0).to(tl.float64) / spacing + origin
    y = tl.load(means + 3 * i + 1, mask=valid, other=0.0).to(tl.float64) / spacing + origin
    z = tl.load(means + 3 * i + 2, mask=valid, other=0.0).to(tl.float64) / spacing + origin
    sxx = _symmetric(covariances, i, valid, 0, 0) / (spacing * spacing)
    sxy = _symmetric(covariances, i, valid, 0, 1) / (spacing * spacing)
    sxz = _symmetric(covariances, i, valid, 0, 2) / (spacing * spacing)
    syy = _symmetric(covariances, i, valid, 1, 1) / (spacing * spacing)
    syz = _symmetric(covariances, i, valid, 1, 2) / (spacing * spacing)
    szz = _symmetric(covariances, i, valid, 2, 2) / (spacing * spacing)
    total = x + y + z + sxx + sxy + sxz + syy + syz + szz
    nan = total - total != 0.0
    cxx, cxy, cxz = syy * szz - syz * syz, sxz * syz - sxy * szz, sxy * syz - sxz * syy  # cofactors
    determinant = sxx * cxx + sxy * cxy + sxz * cxz
    inverse = 1.0 / tl.where(determinant > 0.0, determinant, 1.0)
    x0, x1 = _reached(x, sxx, box, squared_cutoff)
    y0, y1 = _reached(y, syy, box, squared_cutoff)
    z0, z1 = _reached(z, szz, box, squared_cutoff)
    seen = (x1 > x0) & (y1 > y0) & (z1 > z0) & (determinant > 0.0) & (inverse < LARGEST_INVERSE)
    _store_axis(bounds, n, i, valid, 0, x0, x1, seen, nan)
    _store_axis(bounds, n, i, valid, 1, y0, y1, seen, nan)
    _store_axis(bounds, n, i, valid, 2, z0, z1, seen, nan)
    scale = tl.where(seen, inverse * LOG2_E_HALF, 0.0)
    norm = tl.sqrt(tl.where(seen, inverse, 0.0)) * PER_TWO_PI_3_2 / (spacing * spacing * spacing)
    _store_shape(shapes, n, i, valid, 0, norm, seen, nan)
    _store_shape(shapes, n, i, valid, 1, x0 - x, seen, nan)
    _store_shape(shapes, n, i, valid, 2, y0 - y, seen, nan)
    _store_shape(shapes, n, i, valid, 3, scale * cxx, seen, nan)
    _store_shape(shapes, n, i, valid, 4, 2.0 * scale * cxy, seen, nan)
    _store_shape(shapes, n, i, valid, 5, scale * (sxx * szz - sxz * sxz), seen, nan)
    _store_shape(shapes, n, i, valid, 6, z0 - z, seen, nan)
    _store_shape(shapes, n, i, valid, 7, 2.0 * scale * cxz, seen, nan)
    _store_shape(shapes, n, i, valid, 8, 2.0 * scale * (sxy * sxz - sxx * syz), seen, nan)
    _store_shape(shapes, n, i, valid, 9, scale * (sxx * syy - sxy * sxy), seen, nan)


@triton.jit
def splat(
    bounds, shapes, weights, samples, per_quantum,
    n, box, SOLID: tl.constexpr, EXACT: tl.constexpr, GAUSSIANS: tl.constexpr, LANES: tl.constexpr,
):  # fmt: skip
    """Add Gaussians to samples, which are zeros before: the sum is one of atomic additions, in whatever order.

    With EXACT, samples are int64 numbers of quanta (per_quantum (images,) float64 is 1 / quantum): integers add up to
    the same bits in any order.
    """
    image, i, valid = _members(n, GAUSSIANS)
    bounds += image * (6 if SOLID else 4) * n + i
    shapes += image * (10 if SOLID else 6) * n + i
    x0 = tl.load(bounds, mask=valid, other=0).to(tl.int32)
    columns = tl.load(bounds + n, mask=valid, other=0).to(tl.int32)
    y0 = tl.load(bounds + 2 * n, mask=valid, other=0).to(tl.int32)
    rows = tl.load(bounds + 3 * n, mask=valid, other=0).to(tl.int32)
    amplitude = tl.load(shapes, mask=valid, other=0.0) * tl.load(weights + i, mask=valid, other=0.0)
    left = tl.load(shapes + n, mask=valid, other=0.0)
    top = tl.load(shapes + 2 * n, mask=valid, other=0.0)
    xx = tl.load(shapes + 3 * n, mask=valid, other=0.0)
    xy = tl.load(shapes + 4 * n, mask=valid, other=0.0)
    yy = tl.load(shapes + 5 * n, mask=valid, other=0.0)
    if EXACT:
        amplitude = (amplitude.to(tl.float64) * tl.load(per_quantum + image)).to(amplitude.dtype)
    samples += image * box * box
    first = y0.to(tl.int64) * box + x0
    if SOLID:
        plane_size = tl.cast(box, tl.int64) * box
        first += tl.load(bounds + 4 * n, mask=valid, other=0) * plane_size
        planes = tl.load(bounds + 5 * n, mask=valid, other=0).to(tl.int32)
        front = tl.load(shapes + 6 * n, mask=valid, other=0.0)
        xz = tl.load(shapes + 7 * n, mask=valid, other=0.0)
        yz = tl.load(shapes + 8 * n, mask=valid, other=0.0)
        zz = tl.load(shapes + 9 * n, mask=valid, other=0.0)
        deepest = tl.max(planes, 0)
    else:
        deepest = 1
    tallest = tl.max(rows, 0)
    for strip in range(0, tl.max(columns, 0), LANES):
        column = strip + tl.arange(0, LANES)[None, :]
        dx = left[:, None] + column
        inside = column < columns[:, None]
        for plane in range(0, deepest):
            constant = -(xx[:, None] * dx * dx)
            linear = -(xy[:, None] * dx)
            reached = inside
            target = samples + first[:, None] + column
            if SOLID:
                dz = (front + plane)[:, None]
                constant -= (xz[:, None] * dx + zz[:, None] * dz) * dz
                linear -= yz[:, None] * dz
                reached = reached & (plane < planes[:, None])
                target += plane_size * plane
            for row in range(0, tallest):
                dy = (top + row)[:, None]
                value = amplitude[:, None] * tl.exp2(constant + (linear - yy[:, None] * dy) * dy)
                here = reached & (row < rows[:, None])
                if EXACT:
                    tl.atomic_add(target, value.to(tl.int64), mask=here, sem="relaxed")
                else:
                    tl.atomic_add(target, value, mask=here, sem="relaxed")
                target += box


@triton.jit
def gather(
    bounds, shapes, gradient, moments,
    n, box, SOLID: tl.constexpr, GAUSSIANS: tl.constexpr, LANES: tl.constexpr,
):  # fmt: skip
    """Moments of the gradient under Gaussians of height 1: sums of g times 1, dx, dy, dx^2, dx dy, dy^2 and, in a
    volume, dz, dx dz, dy dz, dz^2. No atomics: each Gaussian sums for itself, in one order."""
    image, i, valid = _members(n, GAUSSIANS)
    bounds += image * (6 if SOLID else 4) * n + i
    shapes += image * (10 if SOLID else 6) * n + i
    moments += image * (10 if SOLID else 6) * n + i
    x0 = tl.load(bounds, mask=valid, other=0).to(tl.int32)
    columns = tl.load(bounds + n, mask=valid, other=0).to(tl.int32)
    y0 = tl.load(bounds + 2 * n, mask=valid, other=0).to(tl.int32)
    rows = tl.load(bounds + 3 * n, mask=valid, other=0).to(tl.int32)
    left = tl.load(shapes + n, mask=valid, other=0.0)
    top = tl.load(shapes + 2 * n, mask=valid, other=0.0)
    xx = tl.load(shapes + 3 * n, mask=valid, other=0.0)
    xy = tl.load(shapes + 4 * n, mask=valid, other=0.0)
    yy = tl.load(shapes + 5 * n, mask=valid, other=0.0)
    gradient += image * box * box
    first = y0.to(tl.int64) * box + x0
    zero = tl.zeros((GAUSSIANS, LANES), shapes.dtype.element_ty)
    m, mx, my, mxx, mxy, myy = zero, zero, zero, zero, zero, zero
    if SOLID:
        plane_size = tl.cast(box, tl.int64) * box
        first += tl.load(bounds + 4 * n, mask=valid, other=0) * plane_size
        planes = tl.load(bounds + 5 * n, mask=valid, other=0).to(tl.int32)
        front = tl.load(shapes + 6 * n, mask=valid, other=0.0)
        xz = tl.load(shapes + 7 * n, mask=valid, other=0.0)
        yz = tl.load(shapes + 8 * n, mask=valid, other=0.0)
        zz = tl.load(shapes + 9 * n, mask=valid, other=0.0)
        mz, mxz, myz, mzz = zero, zero, zero, zero
        deepest = tl.max(planes, 0)
    else:
        deepest = 1
    tallest = tl.max(rows, 0)
    for strip in range(0, tl.max(columns, 0), LANES):
        column = strip + tl.arange(0, LANES)[None, :]
        dx = left[:, None] + column
        inside = column < columns[:, None]
        for plane in range(0, deepest):
            constant = -(xx[:, None] * dx * dx)
            linear = -(xy[:, None] * dx)
            reached = inside
            source = gradient + first[:, None] + column
            if SOLID:
                dz = (front + plane)[:, None]
                constant -= (xz[:, None] * dx + zz[:, None] * dz) * dz
                linear -= yz[:, None] * dz
                reached = reached & (plane < planes[:, None])
                source += plane_size * plane
            s, sy, syy = zero, zero, zero
            for row in range(0, tallest):
                dy = (top + row)[:, None]
                g = tl.load(source, mask=reached & (row < rows[:, None]), other=0.0)
                g *= tl.exp2(constant + (linear - yy[:, None] * dy) * dy)
                s += g
                sy += g * dy
                syy += g * dy * dy
                source += box
            m += s
            mx += s * dx
            my += sy
            mxx += s * dx * dx
            mxy += sy * dx
            myy += syy
            if SOLID:
                mz += s * dz
                mxz += s * dx * dz
                myz += sy * dz
                mzz += s * dz * dz
    tl.store(moments, tl.sum(m, 1), mask=valid)
    tl.store(moments + n, tl.sum(mx, 1), mask=valid)
    tl.store(moments + 2 * n, tl.sum(my, 1), mask=valid)
    tl.store(moments + 3 * n, tl.sum(mxx, 1), mask=valid)
    tl.store(moments + 4 * n, tl.sum(mxy, 1), mask=valid)
    tl.store(moments + 5 * n, tl.sum(myy, 1), mask=valid)
    if SOLID:
        tl.store(moments + 6 * n, tl.sum(mz, 1), mask=valid)
        tl.store(moments + 7 * n, tl.sum(mxz, 1), mask=valid)
        tl.store(moments + 8 * n, tl.sum(myz, 1), mask=valid)
        tl.store(moments + 9 * n, tl.sum(mzz, 1), mask=valid)


@triton.jit
def _store_symmetric(to, i, valid, j: tl.constexpr, k: tl.constexpr, value):
    tl.store(to + 9 * i + (3 * j + k), value, mask=valid)
    if j != k:
        tl.store(to + 9 * i + (3 * k + j), value, mask=valid)


@triton.jit
def chain_images(
    means, covariances, weights, rotations, shapes, moments,
    d_means, d_covariances, d_weights, turns,
    n, images, spacing: tl.float64, TURN: tl.constexpr, IMAGES: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Gradients of BLOCK Gaussians, summed over all images, IMAGES at a time.

    With K the inverse of a 2D covariance, M1 and M2 the first and second moments and alpha = weight norm:
    d/dweight = norm M0, d/dmu = alpha K M1 =: d, d/dcov = alpha (K M2 K - M0 K) / 2 =: G; and d/dm = A^T d,
    d/dS = A^T G A, d/dA = d m^T + 2 G A S, of which TURN writes each block's share: turns (images, blocks, 6).
    """
    block = tl.program_id(0)
    i = block * BLOCK + tl.arange(0, BLOCK)
    exists = i < n
    kind = shapes.dtype.element_ty
    per_spacing = (tl.full((1,), 1.0, tl.float64) / spacing).to(kind)
    weight = tl.load(weights + i, mask=exists, other=0.0)[None, :]
    zero = tl.zeros((IMAGES, BLOCK), kind)
    dw, dx, dy, dz = zero, zero, zero, zero
    dxx, dxy, dxz, dyy, dyz, dzz = zero, zero, zero, zero, zero, zero
    for start in range(0, images, IMAGES):
        image = start + tl.arange(0, IMAGES)
        there = image < images
        valid = there[:, None] & exists[None, :]
        shape = shapes + image.to(tl.int64)[:, None] * 6 * n + i[None, :]
        moment = moments + image.to(tl.int64)[:, None] * 6 * n + i[None, :]
        view = rotations + image[:, None] * 9
        ux = tl.load(view, mask=there[:, None], other=0.0) * per_spacing[:, None]
        uy = tl.load(view + 1, mask=there[:, None], other=0.0) * per_spacing[:, None]
        uz = tl.load(view + 2, mask=there[:, None], other=0.0) * per_spacing[:, None]
        vx = tl.load(view + 3, mask=there[:, None], other=0.0) * per_spacing[:, None]
        vy = tl.load(view + 4, mask=there[:, None], other=0.0) * per_spacing[:, None]
        vz = tl.load(view + 5, mask=there[:, None], other=0.0) * per_spacing[:, None]
        norm = tl.load(shape, mask=valid, other=0.0)
        kxx = tl.load(shape + 3 * n, mask=valid, other=0.0) * PER_LOG2_E_HALF
        kxy = tl.load(shape + 4 * n, mask=valid, other=0.0) * 0.5 * PER_LOG2_E_HALF
        kyy = tl.load(shape + 5 * n, mask=valid, other=0.0) * PER_LOG2_E_HALF
        m = tl.load(moment, mask=valid, other=0.0)
        mx = tl.load(moment + n, mask=valid, other=0.0)
        my = tl.load(moment + 2 * n, mask=valid, other=0.0)
        mxx = tl.load(moment + 3 * n, mask=valid, other=0.0)
        mxy = tl.load(moment + 4 * n, mask=valid, other=0.0)
        myy = tl.load(moment + 5 * n, mask=valid, other=0.0)
        alpha = norm * weight
        du, dv = alpha * (kxx * mx + kxy * my), alpha * (kxy * mx + kyy * my)
        pxx, pxy = kxx * mxx + kxy * mxy - m, kxx * mxy + kxy * myy  # K M2 - M0
        pyx, pyy = kxy * mxx + kyy * mxy, kxy * mxy + kyy * myy - m
        guu, guv = alpha * 0.5 * (pxx * kxx + pxy * kxy), alpha * 0.5 * (pxx * kxy + pxy * kyy)
        gvv = alpha * 0.5 * (pyx * kxy + pyy * kyy)
        dw += norm * m
        dx += ux * du + vx * dv
        dy += uy * du + vy * dv
        dz += uz * du + vz * dv
        px, py, pz = guu * ux + guv * vx, guu * uy + guv * vy, guu * uz + guv * vz  # rows of G A
        qx, qy, qz = guv * ux + gvv * vx, guv * uy + gvv * vy, guv * uz + gvv * vz
        dxx += px * ux + qx * vx
        dxy += px * uy + qx * vy
        dxz += px * uz + qx * vz
        dyy += py * uy + qy * vy
        dyz += py * uz + qy * vz
        dzz += pz * uz + qz * vz
        if TURN:
            share = turns + (image.to(tl.int64) * tl.num_programs(0) + block) * 6
            for j in tl.static_range(3):
                mean = tl.load(means + 3 * i + j, mask=exists, other=0.0)[None, :]
                sx = _symmetric(covariances, i, exists, 0, j).to(kind)[None, :]
                sy = _symmetric(covariances, i, exists, 1, j).to(kind)[None, :]
                sz = _symmetric(covariances, i, exists, 2, j).to(kind)[None, :]
                u = du * mean + 2 * (px * sx + py * sy + pz * sz)
                v = dv * mean + 2 * (qx * sx + qy * sy + qz * sz)
                tl.store(share + j, tl.sum(u, 1) * per_spacing, mask=there)
                tl.store(share + 3 + j, tl.sum(v, 1) * per_spacing, mask=there)
    tl.store(d_weights + i, tl.sum(dw, 0), mask=exists)
    tl.store(d_means + 3 * i, tl.sum(dx, 0), mask=exists)
    tl.store(d_means + 3 * i + 1, tl.sum(dy, 0), mask=exists)
    tl.store(d_means + 3 * i + 2, tl.sum(dz, 0), mask=exists)
    _store_symmetric(d_covariances, i, exists, 0, 0, tl.sum(dxx, 0))
    _store_symmetric(d_covariances, i, exists, 0, 1, tl.sum(dxy, 0))
    _store_symmetric(d_covariances, i, exists, 0, 2, tl.sum(dxz, 0))
    _store_symmetric(d_covariances, i, exists, 1, 1, tl.sum(dyy, 0))
    _store_symmetric(d_covariances, i, exists, 1, 2, tl.sum(dyz, 0))
    _store_symmetric(d_covariances, i, exists, 2, 2, tl.sum(dzz, 0))


@triton.jit
def chain_volume(
    weights, shapes, moments, d_means, d_covariances, d_weights,
    n, spacing: tl.float64, BLOCK: tl.constexpr,
):  # fmt: skip
    """With K the inverse covariance: d/dmean = alpha K M1, d/dS = alpha (K M2 K - M0 K) / 2, d/dweight = norm M0."""
    _, i, valid = _members(n, BLOCK)
    shapes += i
    moments += i
    norm = tl.load(shapes, mask=valid, other=0.0)
    kxx = tl.load(shapes + 3 * n, mask=valid, other=0.0) * PER_LOG2_E_HALF
    kxy = tl.load(shapes + 4 * n, mask=valid, other=0.0) * 0.5 * PER_LOG2_E_HALF
    kyy = tl.load(shapes + 5 * n, mask=valid, other=0.0) * PER_LOG2_E_HALF
    kxz = tl.load(shapes + 7 * n, mask=valid, other=0.0) * 0.5 * PER_LOG2_E_HALF
    kyz = tl.load(shapes + 8 * n, mask=valid, other=0.0) * 0.5 * PER_LOG2_E_HALF
    kzz = tl.load(shapes + 9 * n, mask=valid, other=0.0) * PER_LOG2_E_HALF
    m = tl.load(moments, mask=valid, other=0.0)
    mx = tl.load(moments + n, mask=valid, other=0.0)
    my = tl.load(moments + 2 * n, mask=valid, other=0.0)
    mxx = tl.load(moments + 3 * n, mask=valid, other=0.0)
    mxy = tl.load(moments + 4 * n, mask=valid, other=0.0)
    myy = tl.load(moments + 5 * n, mask=valid, other=0.0)
    mz = tl.load(moments + 6 * n, mask=valid, other=0.0)
    mxz = tl.load(moments + 7 * n, mask=valid, other=0.0)
    myz = tl.load(moments + 8 * n, mask=valid, other=0.0)
    mzz = tl.load(moments + 9 * n, mask=valid, other=0.0)
    per_spacing = (tl.full((1,), 1.0, tl.float64) / spacing).to(norm.dtype)
    alpha = norm * tl.load(weights + i, mask=valid, other=0.0)
    per, half = alpha * per_spacing, alpha * 0.5 * per_spacing * per_spacing
    tl.store(d_weights + i, norm * m, mask=valid)
    tl.store(d_means + 3 * i, per * (kxx * mx + kxy * my + kxz * mz), mask=valid)
    tl.store(d_means + 3 * i + 1, per * (kxy * mx + kyy * my + kyz * mz), mask=valid)
    tl.store(d_means + 3 * i + 2, per * (kxz * mx + kyz * my + kzz * mz), mask=valid)
    # Rows of K M2 - M0, each then times columns of K.
    px, py, pz = (
        kxx * mxx + kxy * mxy + kxz * mxz - m, kxx * mxy + kxy * myy + kxz * myz, kxx * mxz + kxy * myz + kxz * mzz,
    )  # fmt: skip
    qx, qy, qz = (
        kxy * mxx + kyy * mxy + kyz * mxz, kxy * mxy + kyy * myy + kyz * myz - m, kxy * mxz + kyy * myz + kyz * mzz,
    )  # fmt: skip
    rx, ry, rz = (
        kxz * mxx + kyz * mxy + kzz * mxz, kxz * mxy + kyz * myy + kzz * myz, kxz * mxz + kyz * myz + kzz * mzz - m,
    )  # fmt: skip
    _store_symmetric(d_covariances, i, valid, 0, 0, half * (px * kxx + py * kxy + pz * kxz))
    _store_symmetric(d_covariances, i, valid, 0, 1, half * (px * kxy + py * kyy + pz * kyz))
    _store_symmetric(d_covariances, i, valid, 0, 2, half * (px * kxz + py * kyz + pz * kzz))
    _store_symmetric(d_covariances, i, valid, 1, 1, half * (qx * kxy + qy * kyy + qz * kyz))
    _store_symmetric(d_covariances, i, valid, 1, 2, half * (qx * kxz + qy * kyz + qz * kzz))
    _store_symmetric(d_covariances, i, valid, 2, 2, half * (rx * kxz + ry * kyz + rz * kzz))
