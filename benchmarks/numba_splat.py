"""The same images and gradients by numba, as fast as we know how to write it there: the row recurrence, columns inside.

Not part of the package: benchmarks/rendering.py compares with it where numba is installed (pip install numba).
"""

import math

import numba
import numpy as np

_jit = numba.njit(fastmath=True, parallel=False, boundscheck=False, error_model="numpy")


@_jit
def footprint(m, s, a, box, cutoff):
    """Bounds, offset of the first pixel, conic and norm of one Gaussian in one image, in pixels."""
    cx = a[0, 0] * m[0] + a[0, 1] * m[1] + a[0, 2] * m[2] + box // 2
    cy = a[1, 0] * m[0] + a[1, 1] * m[1] + a[1, 2] * m[2] + box // 2
    xx = xy = yy = 0.0
    for i in range(3):
        for j in range(3):
            xx += a[0, i] * s[i, j] * a[0, j]
            xy += a[0, i] * s[i, j] * a[1, j]
            yy += a[1, i] * s[i, j] * a[1, j]
    rx, ry = cutoff * math.sqrt(xx), cutoff * math.sqrt(yy)
    x0, x1 = max(0, math.ceil(cx - rx)), min(box, math.floor(cx + rx) + 1)
    y0, y1 = max(0, math.ceil(cy - ry)), min(box, math.floor(cy + ry) + 1)
    inverse = 1 / (xx * yy - xy * xy)
    norm = math.sqrt(inverse) / (2 * math.pi)
    return x0, x1, y0, y1, np.float32(x0 - cx), np.float32(y0 - cy), yy * inverse, -xy * inverse, xx * inverse, norm


@_jit
def first_row(v, r, n, dx, dy, a, b, c):
    for i in range(n):
        x = dx + np.float32(i)
        v[i] = math.exp(np.float32(-0.5) * (a * x * x + np.float32(2) * b * x * dy + c * dy * dy))
        r[i] = math.exp(np.float32(-0.5) * (np.float32(2) * b * x + c * (np.float32(2) * dy + np.float32(1))))


@_jit
def forward(means, covariances, weights, rotations, box, cutoff, images):
    v, r = np.empty(box, np.float32), np.empty(box, np.float32)
    images[:] = 0
    for k in range(len(rotations)):
        image = images[k]
        for g in range(len(means)):
            x0, x1, y0, y1, dx, dy, a, b, c, norm = footprint(means[g], covariances[g], rotations[k], box, cutoff)
            n, w, q = x1 - x0, np.float32(weights[g] * norm), np.float32(math.exp(-c))
            first_row(v, r, n, dx, dy, np.float32(a), np.float32(b), np.float32(c))
            for y in range(y0, y1):
                row = image[y, x0 : x0 + n]
                for i in range(n):
                    row[i] += w * v[i]
                    v[i] *= r[i]
                    r[i] *= q


@_jit
def backward(means, covariances, weights, rotations, box, cutoff, gradient, d_means, d_cov, d_weights):
    v, r = np.empty(box, np.float32), np.empty(box, np.float32)
    s0, s1, s2 = np.empty(box, np.float32), np.empty(box, np.float32), np.empty(box, np.float32)
    d_means[:], d_cov[:], d_weights[:] = 0, 0, 0
    for k in range(len(rotations)):
        t = rotations[k]
        for g in range(len(means)):
            x0, x1, y0, y1, dx, dy, a, b, c, norm = footprint(means[g], covariances[g], t, box, cutoff)
            n, q = x1 - x0, np.float32(math.exp(-c))
            first_row(v, r, n, dx, dy, np.float32(a), np.float32(b), np.float32(c))
            s0[:n], s1[:n], s2[:n] = 0, 0, 0
            for y in range(y0, y1):
                row, away = gradient[k, y, x0 : x0 + n], np.float32(dy + (y - y0))
                for i in range(n):
                    value = row[i] * v[i]
                    s0[i] += value
                    s1[i] += value * away
                    s2[i] += value * away * away
                    v[i] *= r[i]
                    r[i] *= q
            m0 = mx = my = mxx = mxy = myy = np.float32(0)
            for i in range(n):
                x = dx + np.float32(i)
                m0, mx, my = m0 + s0[i], mx + s0[i] * x, my + s1[i]
                mxx, mxy, myy = mxx + s0[i] * x * x, mxy + s1[i] * x, myy + s2[i]
            alpha = weights[g] * norm
            ux, uy = alpha * (a * mx + b * my), alpha * (b * mx + c * my)
            pxx, pxy, pyx, pyy = a * mxx + b * mxy - m0, a * mxy + b * myy, b * mxx + c * mxy, b * mxy + c * myy - m0
            gxx, gxy, gyy = pxx * a + pxy * b, pxx * b + pxy * c, pyx * b + pyy * c
            d_weights[g] += norm * m0
            for i in range(3):
                d_means[g, i] += t[0, i] * ux + t[1, i] * uy
                u, w = gxx * t[0, i] + gxy * t[1, i], gxy * t[0, i] + gyy * t[1, i]
                for j in range(3):
                    d_cov[g, i, j] += alpha / 2 * (u * t[0, j] + w * t[1, j])
