#!/usr/bin/env python3
"""Derives the coefficients of kvf_exp (src/shared/exp.h, docs/FORMAT.md 6.1).

exp(r) = 1 + r + r^2 * q(r) on |r| <= ln(2)/2, q of degree 4. The coefficients are
found by the Remez exchange on the relative error in exact rational arithmetic (no
numpy), then rounded to f32 one after the other, lowest first, refitting the rest.
"""
import math
import struct
from fractions import Fraction

DEGREE = 4
BOUND = Fraction(0.34657359027997264).limit_denominator(10**18)


def exp_exact(x, terms=30):
    total = term = Fraction(1)
    for k in range(1, terms):
        term = term * x / k
        total += term
    return total


def f32(x):
    return struct.unpack("<f", struct.pack("<f", float(x)))[0]


def solve(matrix, right):
    n = len(right)
    rows = [list(r) + [b] for r, b in zip(matrix, right)]
    for i in range(n):
        pivot = max(range(i, n), key=lambda r: abs(rows[r][i]))
        rows[i], rows[pivot] = rows[pivot], rows[i]
        for r in range(n):
            if r != i and rows[r][i]:
                factor = rows[r][i] / rows[i][i]
                rows[r] = [a - factor * b for a, b in zip(rows[r], rows[i])]
    return [rows[i][n] / rows[i][i] for i in range(n)]


def remez(fixed):
    """Coefficients beyond `fixed` so that the relative error of exp levels out."""
    free = DEGREE + 1 - len(fixed)
    points = [BOUND * Fraction(math.cos(math.pi * (i + 0.5) / (free + 1))).limit_denominator(10**9)
              for i in range(free + 1)]
    grid = [BOUND * Fraction(i, 400) for i in range(-400, 401)]
    values = {x: exp_exact(x) for x in grid}
    coefficients = []
    for _ in range(12):
        matrix, right = [], []
        for i, x in enumerate(points):
            e = exp_exact(x)
            known = 1 + x + sum(c * x**(k + 2) for k, c in enumerate(fixed))
            matrix.append([x**(k + 2 + len(fixed)) for k in range(free)] + [(-1)**i * e])
            right.append(e - known)
        *coefficients, _level = solve(matrix, right)
        whole = list(fixed) + coefficients

        def error(x):
            y = 1 + x + sum(c * x**(k + 2) for k, c in enumerate(whole))
            return (y - values[x]) / values[x]

        errors = [error(x) for x in grid]
        extrema = [max((abs(errors[j]), j) for j in group)[1] for group in runs(errors)]
        if len(extrema) < free + 1:
            break
        while len(extrema) > free + 1:
            extrema.pop(0 if abs(errors[extrema[0]]) < abs(errors[extrema[-1]]) else -1)
        points = [grid[j] for j in extrema]
    return coefficients


def runs(errors):
    group, sign = [], None
    for j, e in enumerate(errors):
        if sign is not None and (e > 0) != sign:
            yield group
            group = []
        group.append(j)
        sign = e > 0
    yield group


def main():
    fixed = []
    while len(fixed) <= DEGREE:
        fixed.append(Fraction(f32(remez(fixed)[0])))
    for k, c in enumerate(fixed):
        print(f"c{k} = {float(c).hex()}  {float(c):.9g}")
    worst = max(abs((1 + x + sum(c * x**(k + 2) for k, c in enumerate(fixed))) / exp_exact(x) - 1)
                for x in (BOUND * Fraction(i, 1000) for i in range(-1000, 1001)))
    print(f"largest relative error before f32 evaluation: {float(worst):.3g}")


if __name__ == "__main__":
    main()
