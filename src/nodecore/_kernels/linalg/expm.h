/* The exponential of a matrix, the functions phi_k and their derivatives, in float64 for both element
 * types; compiled once an ISA (docs/math/splitting.md).
 *
 * Matrices are [P][P] with P = expm_pitch(D), what is behind D x D being zero. exp(X) is the Taylor
 * polynomial of degree 16 of X / 2^s, evaluated by Paterson & Stockmeyer's rule in six products and
 * squared s times (Higham, Functions of Matrices, 2008, chapter 10). */
static int64_t expm_pitch(int64_t D)
{
    return (D + 15) & ~(int64_t)15;
}

/* Doubles of work space that expm_frechet or phi_frechet need. */
static int64_t expm_work(int64_t D, int phis, int derivative)
{
    int64_t P = expm_pitch(D);
    return ((derivative ? 9 : 5) + (phis ? (derivative ? 9 : 5) : 0)) * P * P;
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

/* B = c0 I + c1 X + c2 X^2 + c3 X^3 with c_i = 1 / (first + i)!; derivative: without I. */
static void expm_block(double *B, const double *const *powers, int first, int64_t P, int derivative)
{
    double c[4], f = 1;
    for (int i = 0; i <= first + 3; i++) {
        f /= i ? i : 1;
        if (i >= first)
            c[i - first] = f;
    }
    for (int64_t i = 0; i < P * P; i++)
        B[i] = c[1] * powers[0][i] + (c[2] * powers[1][i] + c[3] * powers[2][i]);
    for (int64_t i = 0; i < P && !derivative; i++)
        B[i * P + i] += c[0];
}

static void expm_fill(double *out, double value, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        out[i] = value;
}

/* E = sum_k X^k / (k + shift)! up to k = 16, and with G also dE along G: phi_shift of a small X. */
static void expm_taylor(const double *X, const double *G, double *E, double *dE, int shift, int64_t P,
                        double *work)
{
    int64_t n = P * P;
    double *X2 = work, *X3 = work + n, *X4 = work + 2 * n, *B = work + 3 * n, *old = work + 4 * n;
    double *D2 = work + 5 * n, *D3 = work + 6 * n, *D4 = work + 7 * n, *before = work + 8 * n;
    const double *powers[3] = {X, X2, X3}, *slopes[3] = {G, D2, D3};
    expm_product(X, X, X2, P, 0);
    expm_product(X2, X, X3, P, 0);
    expm_product(X2, X2, X4, P, 0);
    if (G) {
        expm_product(G, X, D2, P, 0);
        expm_product(X, G, D2, P, 1);
        expm_product(D2, X, D3, P, 0);
        expm_product(X2, G, D3, P, 1);
        expm_product(D2, X2, D4, P, 0);
        expm_product(X2, D2, D4, P, 1);
        expm_block(dE, slopes, 12 + shift, P, 1);
    }
    double last = 1;
    for (int k = 1; k <= 16 + shift; k++)
        last /= k;
    expm_block(E, powers, 12 + shift, P, 0);
    for (int64_t i = 0; i < n; i++)
        E[i] += last * X4[i];
    for (int64_t i = 0; G && i < n; i++)
        dE[i] += last * D4[i];
    for (int first = 8; first >= 0; first -= 4) { /* E = B + X^4 E */
        memcpy(old, E, (size_t)n * sizeof(double));
        if (G) {
            memcpy(before, dE, (size_t)n * sizeof(double));
            expm_block(B, slopes, first + shift, P, 1);
            expm_product(X4, before, B, P, 1);
            expm_product(D4, old, B, P, 1);
            memcpy(dE, B, (size_t)n * sizeof(double));
        }
        expm_block(B, powers, first + shift, P, 0);
        expm_product(X4, old, B, P, 1);
        memcpy(E, B, (size_t)n * sizeof(double));
    }
}

/* E = exp(X), and with G also dE, its derivative at X along G. X and G are overwritten. */
static void expm_frechet(double *X, double *G, double *E, double *dE, int64_t P, double *work)
{
    int64_t n = P * P;
    int s = expm_scaling(X, P);
    double *B = work + 3 * n, *old = work + 4 * n;
    if (s < 0) {
        expm_fill(E, NAN, n);
        if (G)
            expm_fill(dE, NAN, n);
        return;
    }
    double scale = ldexp(1.0, -s);
    for (int64_t i = 0; i < n; i++)
        X[i] *= scale;
    for (int64_t i = 0; G && i < n; i++)
        G[i] *= scale;
    expm_taylor(X, G, E, dE, 0, P, work);
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

/* ---- The functions of an exponential integrator --------------------------------------------- */

/* phi_0 = exp, phi_{k+1}(z) = (phi_k(z) - 1/k!) / z. What ETDRK4 takes of them, as linear combinations of
 * phi_1, phi_2, phi_3 at X (docs/math/splitting.md, 4). */
enum { PHI_HALF_EXP = 0, PHI_HALF, PHI_EXP, PHI_FIRST, PHI_MIDDLE, PHI_LAST, N_PHI };
static const double phi_weights[3][3] = {{1, -3, 4}, {0, 1, -2}, {0, -1, 4}};

/* F[i] = the N_PHI functions of X, [N_PHI][P][P]; with G also dF along G. X and G are overwritten.
 * phi_3 of X / 2^s by its Taylor polynomial, then phi_2, phi_1, phi_0 by their definition, then s
 * doublings (Skaflestad & Wright 2009):
 *
 *   8 phi_3(2z) = phi_1 phi_2 + 2 phi_3 + phi_2,  4 phi_2(2z) = phi_1^2 + 2 phi_2,
 *   2 phi_1(2z) = phi_0 phi_1 + phi_1,            phi_0(2z) = phi_0^2 */
static void phi_frechet(double *X, double *G, double *F, double *dF, int64_t P, double *work)
{
    int64_t n = P * P;
    size_t bytes = (size_t)n * sizeof(double);
    int s = expm_scaling(X, P);
    if (s < 0) {
        expm_fill(F, NAN, N_PHI * n);
        if (G)
            expm_fill(dF, NAN, N_PHI * n);
        return;
    }
    if (s == 0)
        s = 1; /* half of X is wanted too */
    double scale = ldexp(1.0, -s);
    for (int64_t i = 0; i < n; i++)
        X[i] *= scale;
    for (int64_t i = 0; G && i < n; i++)
        G[i] *= scale;
    double *phi[4], *slope[4], *more = work + (G ? 9 : 5) * n, *B = more + 4 * n;
    for (int k = 0; k < 4; k++) {
        phi[k] = more + k * n;
        slope[k] = G ? more + (5 + k) * n : NULL;
    }
    expm_taylor(X, G, phi[3], slope[3], 3, P, work);
    for (int k = 2; k >= 0; k--) {
        expm_product(X, phi[k + 1], phi[k], P, 0);
        for (int64_t i = 0; i < P; i++)
            phi[k][i * P + i] += k == 2 ? 0.5 : 1.0;
        if (G) {
            expm_product(G, phi[k + 1], slope[k], P, 0);
            expm_product(X, slope[k + 1], slope[k], P, 1);
        }
    }
    for (; s > 0; s--) {
        if (s == 1) {
            memcpy(F + PHI_HALF_EXP * n, phi[0], bytes);
            memcpy(F + PHI_HALF * n, phi[1], bytes);
            if (G) {
                memcpy(dF + PHI_HALF_EXP * n, slope[0], bytes);
                memcpy(dF + PHI_HALF * n, slope[1], bytes);
            }
        }
        for (int k = 3; k >= 0; k--) { /* phi_k by those of lower index, which come later */
            const double *a = phi[k / 2], *b = phi[(k + 1) / 2];
            const double c = k == 3 ? 0.125 : k == 2 ? 0.25 : k == 1 ? 0.5 : 1.0;
            const double own = k > 1 ? 2.0 : k == 1 ? 1.0 : 0.0, other = k == 3 ? 1.0 : 0.0;
            if (G) {
                expm_product(slope[k / 2], b, B, P, 0);
                expm_product(a, slope[(k + 1) / 2], B, P, 1);
                for (int64_t i = 0; i < n; i++)
                    B[i] = c * (B[i] + (own * slope[k][i] + other * slope[2][i]));
                memcpy(work, B, bytes); /* the value below reads the old slope no more */
            }
            expm_product(a, b, B, P, 0);
            for (int64_t i = 0; i < n; i++)
                B[i] = c * (B[i] + (own * phi[k][i] + other * phi[2][i]));
            memcpy(phi[k], B, bytes);
            if (G)
                memcpy(slope[k], work, bytes);
        }
    }
    memcpy(F + PHI_EXP * n, phi[0], bytes);
    if (G)
        memcpy(dF + PHI_EXP * n, slope[0], bytes);
    for (int w = 0; w < 3; w++)
        for (int64_t i = 0; i < n; i++) {
            const double *c = phi_weights[w];
            F[(PHI_FIRST + w) * n + i] = c[0] * phi[1][i] + (c[1] * phi[2][i] + c[2] * phi[3][i]);
            if (G)
                dF[(PHI_FIRST + w) * n + i] =
                    c[0] * slope[1][i] + (c[1] * slope[2][i] + c[2] * slope[3][i]);
        }
}

/* The same for a number: F and dF [N_PHI]. */
static void phi_numbers(double x, double *F, double *dF)
{
    double size = fabs(x), phi[4], slope[4];
    int s = 1;
    if (!(size < 1e300)) {
        expm_fill(F, NAN, N_PHI);
        expm_fill(dF, NAN, N_PHI);
        return;
    }
    while (size > 1.4) {
        size *= 0.5;
        s++;
    }
    double scale = ldexp(1.0, -s), z = x * scale, c = 1;
    for (int k = 1; k <= 19; k++)
        c /= k;
    phi[3] = c;
    slope[3] = 0;
    for (int k = 15; k >= 0; k--) { /* Horner's rule for sum_k z^k / (k + 3)! */
        c *= k + 4;
        slope[3] = slope[3] * z + phi[3];
        phi[3] = phi[3] * z + c;
    }
    slope[3] *= scale;
    for (int k = 2; k >= 0; k--) {
        phi[k] = z * phi[k + 1] + (k == 2 ? 0.5 : 1.0);
        slope[k] = scale * phi[k + 1] + z * slope[k + 1];
    }
    for (; s > 0; s--) {
        if (s == 1) {
            F[PHI_HALF_EXP] = phi[0];
            F[PHI_HALF] = phi[1];
            dF[PHI_HALF_EXP] = slope[0];
            dF[PHI_HALF] = slope[1];
        }
        double p3 = (phi[1] * phi[2] + 2 * phi[3] + phi[2]) / 8, p2 = (phi[1] * phi[1] + 2 * phi[2]) / 4;
        double p1 = (phi[0] * phi[1] + phi[1]) / 2, p0 = phi[0] * phi[0];
        double d3 = (slope[1] * phi[2] + phi[1] * slope[2] + 2 * slope[3] + slope[2]) / 8;
        double d2 = (2 * phi[1] * slope[1] + 2 * slope[2]) / 4;
        double d1 = (slope[0] * phi[1] + phi[0] * slope[1] + slope[1]) / 2, d0 = 2 * phi[0] * slope[0];
        phi[0] = p0, phi[1] = p1, phi[2] = p2, phi[3] = p3;
        slope[0] = d0, slope[1] = d1, slope[2] = d2, slope[3] = d3;
    }
    F[PHI_EXP] = phi[0];
    dF[PHI_EXP] = slope[0];
    for (int w = 0; w < 3; w++) {
        const double *q = phi_weights[w];
        F[PHI_FIRST + w] = q[0] * phi[1] + (q[1] * phi[2] + q[2] * phi[3]);
        dF[PHI_FIRST + w] = q[0] * slope[1] + (q[1] * slope[2] + q[2] * slope[3]);
    }
}
