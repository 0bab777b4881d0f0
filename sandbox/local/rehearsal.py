"""Importing what sessions will import, and using it once.

A library fills tables and imports parts of itself on first use. Running typical programs in
the zygote does that once for all sessions: it takes a sympy program from 170 to 40 ms of CPU.
What sympy remembers of results stays, too: it is the same for every session.
"""

from __future__ import annotations

import importlib
import os
from contextlib import suppress

PYTHON = """
import collections, dataclasses, functools, itertools, json, math, re, string, time
words = re.findall(r"[a-z]+", "to be or not to be".lower())
best = collections.Counter(words).most_common(2), collections.defaultdict(list)
table = sorted({w: len(w) for w in words}.items(), key=lambda pair: (-pair[1], pair[0]))
text = f"{math.sqrt(2):.3f} {10 ** 20:,} {table!r:>40} {0.1 + 0.2}" + "%5.2f" % 3.14159
list(itertools.permutations(range(4))), math.comb(10, 3), math.gcd(84, 36), sum(range(100))
@functools.lru_cache(maxsize=None)
def fibonacci(n):
    return n if n < 2 else fibonacci(n - 1) + fibonacci(n - 2)
@dataclasses.dataclass
class Point:
    x: float = 0.0
    y: float = 0.0
repr(Point(fibonacci(20), 2.0)), json.loads(json.dumps({"a": [1, 2.5, None, "x"]}))
"""
FRACTIONS = """
from fractions import Fraction
repr(sum(Fraction(1, n) for n in range(1, 12)) * Fraction("2/3") ** 2), float(Fraction(7, 8))
"""
DECIMAL = """
from decimal import Decimal, getcontext
str(Decimal(2).sqrt() + Decimal("0.1") / 3), getcontext().prec
"""
STATISTICS = """
import statistics
statistics.mean([1, 2, 3, 4]), statistics.stdev([1.5, 2.5, 4.0]), statistics.median([3, 1, 2])
"""
NUMPY = """
import numpy as np
a = np.array([[4.0, 1.0, 2.0], [1.0, 3.0, 0.5], [2.0, 0.5, 5.0]])
b = np.arange(12).reshape(3, 4)
np.linalg.det(a), np.linalg.solve(a, b[:, 0]), np.linalg.inv(a), np.linalg.matrix_rank(a)
np.linalg.eig(a), np.linalg.eigvalsh(a), np.linalg.svd(a), np.linalg.norm(a), np.linalg.qr(a)
a @ a.T, np.dot(a, a), np.einsum("ij,jk->ik", a, a), a * 2 + 1, a[a > 1], np.where(a > 1, a, 0)
b.sum(axis=0), b.mean(), b.std(), np.sort(b.ravel())[::-1], np.cumsum(b), np.unique(b % 5)
np.concatenate([b, b]), np.linspace(0, 1, 5), np.sin(a), np.exp(a), np.isclose(a, a.T).all()
np.roots([1, -6, 11, -6]), np.polyfit([0, 1, 2], [1, 3, 7], 1), np.fft.fft(b[0]), np.argmax(b)
np.random.rand(3).mean(), np.random.randint(0, 9, 5), np.random.default_rng(0).normal(size=3)
repr(a), str(b), str(a[0, 0]), repr(np.float64(1.5)), f"{a[0, 1]:.3f}"
"""
SYMPY = """
from sympy import *
x, y, z = symbols("x y z")
n = symbols("n", integer=True, positive=True)
factor(x**4 - 1), factor(x**5 - 2*x**3 + x), factor(x**2*y - y**3), expand((x + y)**4)
apart(1/(x**2 - 1)), together(1/x + 1/y), cancel((x**2 - 1)/(x - 1)), collect(x*y + x, x)
Poly(x**3 - 2*x + 1, x).all_roots(), gcd(x**2 - 1, x - 1), sympify("x**2 + 2*x + 1")
integrate(x**3 + 2*x, (x, 0, 3)), integrate(x**2*sin(x), (x, 0, 1)), integrate(log(x), (x, 1, 2))
integrate(x*exp(-x), (x, 0, oo)), integrate(1/(1 + x**2), (x, 0, 1)), integrate(x*exp(3*x), x)
integrate(sin(x)*cos(x), (x, 0, pi/2)), integrate(x*sin(3*x), (x, 0, pi)), integrate(sqrt(x), x)
solve(x**2 - x - 1, x), solve([x + y - 3, x - y - 1], [x, y]), solve(exp(x) - 2, x)
solve(x**3 - 6*x**2 + 11*x - 6, x), solveset(x**2 - 4, x), nsolve(cos(x) - x, x, 1), roots(x**2 + 1)
solve(x**2 < 4, x), linsolve([x + y - 2, x - y], x, y), diophantine(2*x + 3*y - 5)
simplify(sin(x)**2 + cos(x)**2 + exp(x)*exp(-x)), simplify((x**2 - 1)/(x - 1)), radsimp(1/sqrt(2))
trigsimp(2*sin(x)*cos(x)), nsimplify(0.25), sqrt(8).evalf(), N(pi, 20), Rational(1, 3) + x
diff(sin(x)*exp(x**2), x, 2), series(cos(x), x, 0, 6), limit(sin(x)/x, x, 0)
limit((1 + 1/x)**x, x, oo), summation(n**2, (n, 1, 10)), Sum(1/n**2, (n, 1, oo)).doit()
M = Matrix([[2, -1, 3], [0, 4, 1], [5, 2, 2]])
M.inv(), M.det(), M.rref(), Matrix([[2, 1], [1, 2]]).eigenvals(), Matrix([[x, 1], [y, 2]]).det()
factorint(9991), isprime(97), divisors(60), totient(36), mod_inverse(3, 11), nextprime(100)
str(x**2/2 - y), latex(Integral(sqrt(x), x)), pretty(x**2 + 1/y), lambdify(x, x**2 + sin(x))(3)
import sympy.core.random
sympy.core.random.seed(0)
"""
PROGRAMS = {
    "fractions": FRACTIONS,
    "decimal": DECIMAL,
    "statistics": STATISTICS,
    "numpy": NUMPY,
    "sympy": SYMPY,
}


def preload(names: list[str]) -> list[str]:
    """Import and rehearse; the names that are not installed."""
    absent = []
    # Results that sympy remembers of each function. Of its own default, 1000, the rehearsal leaves
    # nothing free: every session would begin with throwing results away, all over our memory.
    os.environ["SYMPY_CACHE_SIZE"] = "10000"
    for name in names:
        try:
            importlib.import_module(name)
        except ImportError:
            absent.append(name)
            continue
        rehearse(PROGRAMS.get(name, ""))
    del os.environ["SYMPY_CACHE_SIZE"]
    rehearse(PYTHON)
    return absent


def rehearse(program: str) -> None:
    """Run one program; one that a library of another version cannot run warms up less."""
    with suppress(Exception):
        exec(program, {"__name__": "__main__"})
