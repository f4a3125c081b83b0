#!/usr/bin/env python3
"""Image pipelines that Halide compiles for CUDA of the capability given (50, 80, ...), each compared with itself on the processor."""
import sys

import halide as hl
import numpy as np

WIDTH, HEIGHT = 256, 192
x, y, xi, yi, i = (hl.Var(name) for name in ("x", "y", "xi", "yi", "i"))
rxi, ryi = hl.RVar("rxi"), hl.RVar("ryi")


VALUES = (np.arange(WIDTH * HEIGHT, dtype=np.int64) * 2654435761 >> 7 & 255).reshape(HEIGHT, WIDTH)
PICTURES = {dtype: VALUES.astype(dtype) for dtype in (np.float32, np.uint8)}  # buffers do not keep their memory


def picture(dtype):
    return hl.Buffer(PICTURES[dtype])


def blur(gpu):
    source = hl.BoundaryConditions.repeat_edge(picture(np.float32))
    rows, both = hl.Func("rows"), hl.Func("both")
    rows[x, y] = (source[x - 1, y] + source[x, y] + source[x + 1, y]) / 3
    both[x, y] = (rows[x, y - 1] + rows[x, y] + rows[x, y + 1]) / 3
    if gpu:
        both.gpu_tile(x, y, xi, yi, 16, 16)
        rows.compute_at(both, x).gpu_threads(x, y)  # in shared memory
    return both, (HEIGHT, WIDTH)


def curve(gpu):
    source = picture(np.float32)
    out = hl.Func("curve")
    value = source[x, y] / 255
    out[x, y] = hl.exp(-value) * hl.sin(6 * value) + hl.pow(value + hl.f32(0.1), hl.f32(0.45)) + hl.sqrt(value) + hl.log(value + 1)
    if gpu:
        out.gpu_tile(x, y, xi, yi, 32, 4)
    return out, (HEIGHT, WIDTH)


def histogram(gpu):
    source = picture(np.uint8)
    out = hl.Func("histogram")
    r = hl.RDom([(0, HEIGHT), (0, WIDTH)])
    out[i] = hl.u32(0)
    out[hl.i32(source[r.x, r.y])] += hl.u32(1)
    if gpu:
        out.gpu_tile(i, xi, 64)
        out.update().atomic().gpu_tile(r.x, r.y, rxi, ryi, 16, 16)
    return out, (256,)


def product(gpu):
    a, b = picture(np.float32), picture(np.float32)
    k = hl.RDom([(0, HEIGHT)])
    sum_, out = hl.Func("sum"), hl.Func("product")
    sum_[x, y] = hl.f32(0)
    sum_[x, y] += a[k.x, x] * b[k.x, y]
    out[x, y] = sum_[x, y] / 1000
    if gpu:
        out.gpu_tile(x, y, xi, yi, 16, 8)
        sum_.compute_at(out, xi)
    return out, (128, 96)


def main():
    host, device = hl.get_host_target(), hl.Target("x86-64-linux-cuda-cuda_capability_" + sys.argv[1])
    for pipeline in (blur, curve, histogram, product):
        results = []
        for target in (host, device):
            function, shape = pipeline(target.has_gpu_feature())
            result = function.realize(list(shape), target)
            result.copy_to_host()
            results.append(np.array(result).astype(np.float64))
        # Rounded as the processor's compiler and the device's see fit.
        error = np.abs(results[0] - results[1]).max() / np.abs(results[0]).max()
        print(pipeline.__name__, "is right" if error < 1e-5 else f"is wrong by {error}")


main()
