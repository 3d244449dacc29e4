/* The exponential of a matrix and its derivative, in float64 for both element types; compiled once an
 * ISA (docs/math/splitting.md).
 *
 * Matrices are [P][P] with P = expm_pitch(D), what is behind D x D being zero. exp(X) is the Taylor
 * polynomial of degree 16 of X / 2^s, evaluated by Paterson & Stockmeyer's rule in six products and
 * squared s times (Higham, Functions of Matrices, 2008, chapter 10). */
static int64_t expm_pitch(int64_t D)
{
    return (D + 15) & ~(int64_t)15;
}

/* Doubles of work space that expm, or expm_frechet, needs. */
static int64_t expm_work(int64_t D, int derivative)
{
    int64_t P = expm_pitch(D);
    return (derivative ? 13 : 6) * P * P;
}

/* C = A B, or C += A B; C is neither of them. Ascending k, whatever the size. */
static void expm_product(const double *A, const double *B, double *C, int64_t P, int add)
{
    for (int64_t j = 0; j < P; j += 2 * VL)
        for (int64_t i = 0; i < P; i += 4) {
            VF c[4][2];
            for (int r = 0; r < 4; r++)
                for (int q = 0; q < 2; q++)
                    c[r][q] = add ? vload(C + (i + r) * P + j + q * VL) : vset1(0);
            for (int64_t k = 0; k < P; k++) {
                VF b0 = vload(B + k * P + j), b1 = vload(B + k * P + j + VL);
                for (int r = 0; r < 4; r++) {
                    VF a = vset1(A[(i + r) * P + k]);
                    c[r][0] = vfma(a, b0, c[r][0]);
                    c[r][1] = vfma(a, b1, c[r][1]);
                }
            }
            for (int r = 0; r < 4; r++)
                for (int q = 0; q < 2; q++)
                    vstore(C + (i + r) * P + j + q * VL, c[r][q]);
        }
}

/* The halvings after which the polynomial is exact to rounding; -1: X is not finite. */
static int expm_scaling(const double *X, int64_t P)
{
    double norm = 0;
    for (int64_t j = 0; j < P; j++) {
        double sum = 0;
        for (int64_t i = 0; i < P; i++)
            sum += fabs(X[i * P + j]);
        if (!(sum < 1e300))
            return -1;
        norm = fmax(norm, sum);
    }
    int s = 0;
    while (norm > 0.7) {
        norm *= 0.5;
        s++;
    }
    return s;
}

/* B = c0 I + c1 X + c2 X^2 + c3 X^3 with the Taylor coefficients from `first` on; derivative: without I. */
static void expm_block(double *B, const double *const *powers, int first, int64_t P, int derivative)
{
    double c[4];
    double f = 1;
    for (int i = 1; i <= first + 3; i++) {
        f /= i;
        if (i >= first)
            c[i - first] = f;
    }
    if (first == 0)
        c[0] = 1;
    for (int64_t i = 0; i < P * P; i++)
        B[i] = c[1] * powers[0][i] + (c[2] * powers[1][i] + c[3] * powers[2][i]);
    for (int64_t i = 0; i < P && !derivative; i++)
        B[i * P + i] += c[0];
}

/* E = exp(X), and with G also dE, its derivative at X along G. X and G are overwritten. */
static void expm_frechet(double *X, double *G, double *E, double *dE, int64_t P, double *work)
{
    int64_t n = P * P;
    int s = expm_scaling(X, P);
    if (s < 0) {
        for (int64_t i = 0; i < n; i++)
            E[i] = NAN;
        for (int64_t i = 0; G && i < n; i++)
            dE[i] = NAN;
        return;
    }
    double scale = ldexp(1.0, -s);
    for (int64_t i = 0; i < n; i++)
        X[i] *= scale;
    double *X2 = work, *X3 = work + n, *X4 = work + 2 * n, *B = work + 3 * n, *old = work + 4 * n;
    double *D2 = work + 5 * n, *D3 = work + 6 * n, *D4 = work + 7 * n, *before = work + 8 * n;
    const double *powers[3] = {X, X2, X3}, *slopes[3] = {G, D2, D3};
    expm_product(X, X, X2, P, 0);
    expm_product(X2, X, X3, P, 0);
    expm_product(X2, X2, X4, P, 0);
    if (G) {
        for (int64_t i = 0; i < n; i++)
            G[i] *= scale;
        expm_product(G, X, D2, P, 0);
        expm_product(X, G, D2, P, 1);
        expm_product(D2, X, D3, P, 0);
        expm_product(X2, G, D3, P, 1);
        expm_product(D2, X2, D4, P, 0);
        expm_product(X2, D2, D4, P, 1);
        expm_block(dE, slopes, 12, P, 1);
    }
    const double last = 1 / 20922789888000.0; /* 1 / 16! */
    expm_block(E, powers, 12, P, 0);
    for (int64_t i = 0; i < n; i++)
        E[i] += last * X4[i];
    for (int64_t i = 0; G && i < n; i++)
        dE[i] += last * D4[i];
    for (int first = 8; first >= 0; first -= 4) { /* E = B + X^4 E */
        memcpy(old, E, (size_t)n * sizeof(double));
        if (G) {
            memcpy(before, dE, (size_t)n * sizeof(double));
            expm_block(B, slopes, first, P, 1);
            expm_product(X4, before, B, P, 1);
            expm_product(D4, old, B, P, 1);
            memcpy(dE, B, (size_t)n * sizeof(double));
        }
        expm_block(B, powers, first, P, 0);
        expm_product(X4, old, B, P, 1);
        memcpy(E, B, (size_t)n * sizeof(double));
    }
    for (; s > 0; s--) {
        memcpy(old, E, (size_t)n * sizeof(double));
        if (G) {
            expm_product(dE, old, B, P, 0);
            expm_product(old, dE, B, P, 1);
            memcpy(dE, B, (size_t)n * sizeof(double));
        }
        expm_product(old, old, E, P, 0);
    }
}
